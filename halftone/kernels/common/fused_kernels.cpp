// SPDX-License-Identifier: Apache-2.0
#include "halftone/kernels/common/fused_kernels.h"

#include <fmt/format.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <optional>

#include "halftone/core/error.h"

namespace halftone {
namespace {

// In the order of FusedKernel.
constexpr std::array<std::string_view, 12> kNames = {
    "adamw",          "cross_entropy",        "decode_attention", "embedding",
    "gradient_stats", "linear_cross_entropy", "matvec",           "merged_linear",
    "rms_norm",       "rotary_attention",     "swiglu",           "weight_grad"};
static_assert(kNames.size() == static_cast<std::size_t>(FusedKernel::kWeightGrad) + 1);

constexpr std::uint32_t kAll = (1U << kNames.size()) - 1;

std::string listed(std::uint32_t references) {
  std::string text;
  for (std::size_t i = 0; i < kNames.size(); ++i)
    if ((references >> i & 1U) != 0)
      text += fmt::format("{}{}", text.empty() ? "" : ",", kNames[i]);
  return text;
}

std::uint32_t bits_of(std::string_view name) {
  if (name == "all") return kAll;
  for (std::size_t i = 0; i < kNames.size(); ++i)
    if (kNames[i] == name) return 1U << i;
  throw UserError(
      fmt::format("expected kernels that are to run their reference, separated by commas ({}, or "
                  "all), got '{}'",
                  listed(kAll), name));
}

std::uint32_t parse(std::string_view names) {
  std::uint32_t references = 0;
  while (!names.empty()) {
    const std::size_t comma = names.find(',');
    references |= bits_of(names.substr(0, comma));
    names.remove_prefix(comma == names.npos ? names.size() : comma + 1);
  }
  return references;
}

std::optional<std::uint32_t> from_environment() {
  // The second is the variable's former name.
  for (const char* const variable : {"HALFTONE_REFERENCE_KERNELS", "HALFTONE_COMPOSED"}) {
    const char* const names = std::getenv(variable);
    if (names == nullptr) continue;
    try {
      return parse(names);
    } catch (const UserError& error) {
      throw UserError(fmt::format("environment variable {}: {}", variable, error.what()));
    }
  }
  return std::nullopt;
}

std::atomic<std::uint32_t>& in_force() {
  static std::atomic<std::uint32_t> references = from_environment().value_or(0);
  return references;
}

}  // namespace

bool is_fused(FusedKernel kernel) {
  return (in_force().load(std::memory_order_relaxed) >> static_cast<unsigned>(kernel) & 1U) == 0;
}

void set_reference_kernels(std::string_view names) { in_force() = parse(names); }

void check_reference_kernels(std::string_view names) { parse(names); }

void configure_reference_kernels(std::string_view names) {
  const std::uint32_t references = parse(names);
  in_force() = from_environment().value_or(references);
}

std::string reference_kernels() { return listed(in_force()); }

}  // namespace halftone
