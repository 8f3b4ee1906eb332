// SPDX-License-Identifier: Apache-2.0
#include "halftone/kernels/gemm/fast_cpu_gemms.h"

#include <fmt/format.h>
#include <torch/library.h>

#include <atomic>
#include <cstdlib>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "halftone/autocast/suppress_override_warning.h"
#include "halftone/core/error.h"
#include "halftone/kernels/gemm/cpu_gemm_config.h"
#include "halftone/kernels/gemm/replaced_kernel_impl.h"

namespace halftone {
namespace {

thread_local bool original_only = false;

/// An operation that says which ways are in force. The dispatcher belongs to the whole process, so
/// that its being there also tells a second copy of this code that the first has done the work.
constexpr const char* kMarker = "halftone::cpu_gemm_paths";

class Replacement {
 public:
  Replacement() {
    if (c10::Dispatcher::singleton().findSchema({kMarker, ""})) return;
    library_.emplace(torch::Library::FRAGMENT, "halftone", std::nullopt, __FILE__, __LINE__);
    library_->def("cpu_gemm_paths() -> str", [] { return to_string(cpu_gemm_config()); });
    const QuietOverride quiet;
    torch::Library& aten =
        aten_.emplace(torch::Library::IMPL, "aten", c10::DispatchKey::CPU, __FILE__, __LINE__);
    replace_matmuls(aten);
    replace_attention(aten);
    replace_convolutions(aten);
    replace_lstm(aten);
  }

 private:
  std::optional<torch::Library> library_;
  std::optional<torch::Library> aten_;
};

enum class Replaced { kNothing, kWhatGains, kEverything };

Replaced parse_replaced(std::string_view word) {
  if (word == "on" || word == "1") return Replaced::kWhatGains;
  if (word == "off" || word == "0") return Replaced::kNothing;
  if (word == "all") return Replaced::kEverything;
  throw UserError(fmt::format("expected on, off or all, got '{}'", word));
}

std::optional<Replaced> replaced_by_environment() {
  const char* const text = std::getenv("HALFTONE_CPU_GEMM");
  if (text == nullptr || *text == '\0') return std::nullopt;
  try {
    return parse_replaced(text);
  } catch (const UserError& error) {
    throw UserError(fmt::format("environment variable HALFTONE_CPU_GEMM: {}", error.what()));
  }
}

std::atomic<Replaced> configured_mode = Replaced::kWhatGains;
std::atomic<Replaced> mode_in_force = Replaced::kWhatGains;

Replaced decide_what_is_replaced() {
  mode_in_force = replaced_by_environment().value_or(configured_mode.load());
  return mode_in_force;
}

}  // namespace

bool computes_originally() { return original_only || mode_in_force == Replaced::kNothing; }

std::int64_t small_matmul() {
  constexpr std::int64_t kSmall = 4096;
  return mode_in_force == Replaced::kEverything ? 0 : kSmall;
}

bool use_fast_cpu_gemms() {
  if (decide_what_is_replaced() == Replaced::kNothing) return false;
  static const Replacement replacement;
  return true;
}

void configure_fast_cpu_gemms(std::string_view word) {
  configured_mode = parse_replaced(word);
  decide_what_is_replaced();
}

std::string fast_cpu_gemms() {
  const Replaced mode = mode_in_force;
  return mode == Replaced::kNothing ? "off" : mode == Replaced::kEverything ? "all" : "on";
}

OriginalCpuGemms::OriginalCpuGemms() : before_(std::exchange(original_only, true)) {}
OriginalCpuGemms::~OriginalCpuGemms() { original_only = before_; }

}  // namespace halftone
