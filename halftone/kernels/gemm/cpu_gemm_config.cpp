// SPDX-License-Identifier: Apache-2.0
#include "halftone/kernels/gemm/cpu_gemm_config.h"

#include <ATen/Version.h>
#include <fmt/format.h>

#include <array>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "halftone/core/error.h"
#include "halftone/kernels/gemm/cpu_gemm_probe.h"
#include "halftone/kernels/gemm/matmul_environment.h"
#include "halftone/system/processor.h"

namespace halftone {
namespace {

constexpr std::array<std::pair<const char*, GemmBackend>, 2> kPathNames{
    {{"native", GemmBackend::kNative}, {"upcast", GemmBackend::kUpcast}}};
constexpr std::array<std::pair<const char*, GemmLibrary>, 2> kLibraryNames{
    {{"blas", GemmLibrary::kBlas}, {"onednn", GemmLibrary::kOneDnn}}};
constexpr std::array<std::pair<const char*, GemmBackend GemmBackends::*>, 7> kDirections{
    {{"forward", &GemmBackends::forward},
     {"input_gradient", &GemmBackends::input_gradient},
     {"weight_gradient", &GemmBackends::weight_gradient},
     {"attention", &GemmBackends::attention},
     {"convolution", &GemmBackends::convolution},
     {"convolution_input_gradient", &GemmBackends::convolution_input_gradient},
     {"convolution_weight_gradient", &GemmBackends::convolution_weight_gradient}}};
constexpr std::array<std::pair<const char*, GemmBackends CpuGemmConfig::*>, 2> kDtypes{
    {{"bf16", &CpuGemmConfig::bf16}, {"fp16", &CpuGemmConfig::fp16}}};

GemmBackend parse_path(std::string_view text) {
  for (const auto& [name, value] : kPathNames)
    if (name == text) return value;
  if (text == "widened") return GemmBackend::kUpcast;  // its former name
  throw UserError(fmt::format("expected native or upcast for a 16-bit matmul, got '{}'", text));
}

std::optional<GemmLibrary> library_named(std::string_view text) {
  for (const auto& [name, value] : kLibraryNames)
    if (name == text) return value;
  return std::nullopt;
}

std::string unknown_matmul(std::string_view key) {
  std::string products;
  for (const auto& [direction, member] : kDirections)
    products += fmt::format("{}.{}", products.empty() ? "" : ", ", direction);
  return fmt::format(
      "expected fp32, or bf16 or fp16, alone or with one of {} behind it, before the '=' of a "
      "matmul choice, got '{}'",
      products, key);
}

void apply_item(std::string_view item, CpuGemmConfig& choice) {
  const std::size_t equals = item.find('=');
  const std::string_view key = equals == item.npos ? "" : item.substr(0, equals);
  const std::string_view word = equals == item.npos ? item : item.substr(equals + 1);
  const std::optional<GemmLibrary> library = library_named(word);
  if (key == "fp32" && !library)
    throw UserError(fmt::format("expected blas or onednn for an fp32 matmul, got '{}'", word));
  if (library && (key == "fp32" || equals == item.npos)) {
    choice.fp32 = *library;
    return;
  }
  const GemmBackend path = parse_path(word);
  bool known = false;
  for (const auto& [dtype, paths] : kDtypes) {
    for (const auto& [direction, member] : kDirections) {
      if (equals != item.npos && key != dtype && key != fmt::format("{}.{}", dtype, direction))
        continue;
      (choice.*paths).*member = path;
      known = true;
    }
  }
  if (!known) throw UserError(unknown_matmul(key));
}

/// The directions that do not go the way of the forward matmul.
std::vector<std::pair<const char*, GemmBackend>> exceptions_of(const GemmBackends& paths) {
  std::vector<std::pair<const char*, GemmBackend>> exceptions;
  for (const auto& [direction, member] : kDirections)
    if (paths.*member != paths.forward) exceptions.emplace_back(direction, paths.*member);
  return exceptions;
}

/// What `text` names; the rest is measured.
CpuGemmConfig decide(const std::string& text) {
  if (text.empty()) return measured_cpu_gemm_config().choice;
  const CpuGemmConfig named = parse_cpu_gemm_config(text);
  // Every dtype and direction named: nothing left to measure.
  const CpuGemmConfig other = parse_cpu_gemm_config(text, parse_cpu_gemm_config("native,onednn"));
  return named == other ? named : parse_cpu_gemm_config(text, measured_cpu_gemm_config().choice);
}

std::mutex choice_mutex;
std::optional<CpuGemmConfig> choice_in_force;

}  // namespace

std::string to_string(GemmBackend path) {
  for (const auto& [name, value] : kPathNames)
    if (value == path) return name;
  return "?";
}

std::string to_string(GemmLibrary library) {
  for (const auto& [name, value] : kLibraryNames)
    if (value == library) return name;
  return "?";
}

GemmBackends without_convolutions(GemmBackends paths) {
  paths.convolution = paths.convolution_input_gradient = paths.convolution_weight_gradient =
      paths.forward;
  return paths;
}

std::string to_string(const GemmBackends& paths) {
  std::string text = to_string(paths.forward);
  for (const auto& [direction, path] : exceptions_of(paths))
    text += fmt::format(", {}={}", direction, to_string(path));
  return text;
}

std::string to_string(const CpuGemmConfig& choice) {
  std::string text;
  for (const auto& [dtype, member] : kDtypes) {
    const GemmBackends& paths = choice.*member;
    text += fmt::format("{}={},", dtype, to_string(paths.forward));
    for (const auto& [direction, path] : exceptions_of(paths))
      text += fmt::format("{}.{}={},", dtype, direction, to_string(path));
  }
  return text + "fp32=" + to_string(choice.fp32);
}

CpuGemmConfig parse_cpu_gemm_config(std::string_view text, const CpuGemmConfig& base) {
  CpuGemmConfig choice = base;
  while (true) {
    const std::size_t comma = text.find(',');
    apply_item(text.substr(0, comma), choice);
    if (comma == text.npos) break;
    text.remove_prefix(comma + 1);
  }
  return choice;
}

CpuGemmConfig cpu_gemm_config() {
  const std::lock_guard<std::mutex> lock(choice_mutex);
  if (!choice_in_force) choice_in_force = decide(matmul_environment());
  return *choice_in_force;
}

std::optional<CpuGemmConfig> decided_matmul_paths() {
  const std::lock_guard<std::mutex> lock(choice_mutex);
  return choice_in_force;
}

void configure_cpu_gemms(std::string_view text) {
  if (text == "auto") return;
  parse_cpu_gemm_config(text);  // may refuse, whatever the variable says
  if (matmul_environment().empty()) set_cpu_gemm_config(decide(std::string(text)));
}

void set_cpu_gemm_config(const CpuGemmConfig& choice) {
  const std::lock_guard<std::mutex> lock(choice_mutex);
  choice_in_force = choice;
}

bool has_native_attention(torch::ScalarType dtype) {
  const CpuFeatures& cpu = this_processor().features;
  const bool packs = dtype == torch::kHalf ? cpu.avx512_fp16 || cpu.amx_fp16 : cpu.amx_bf16;
  return !packs || at::get_cpu_capability() == "AVX512";
}

}  // namespace halftone
