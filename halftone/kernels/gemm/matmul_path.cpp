// SPDX-License-Identifier: Apache-2.0
#include "halftone/kernels/gemm/matmul_path.h"

#include <fmt/format.h>

#include <array>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "halftone/core/error.h"
#include "halftone/kernels/gemm/matmul_environment.h"
#include "halftone/kernels/gemm/matmul_probe.h"

namespace halftone {
namespace {

constexpr std::array<std::pair<const char*, MatmulPath>, 2> kPathNames{
    {{"native", MatmulPath::kNative}, {"widened", MatmulPath::kWidened}}};
constexpr std::array<std::pair<const char*, GemmLibrary>, 2> kLibraryNames{
    {{"blas", GemmLibrary::kBlas}, {"onednn", GemmLibrary::kOneDnn}}};
constexpr std::array<std::pair<const char*, MatmulPath MatmulPaths::*>, 7> kDirections{
    {{"forward", &MatmulPaths::forward},
     {"input_gradient", &MatmulPaths::input_gradient},
     {"weight_gradient", &MatmulPaths::weight_gradient},
     {"attention", &MatmulPaths::attention},
     {"convolution", &MatmulPaths::convolution},
     {"convolution_input_gradient", &MatmulPaths::convolution_input_gradient},
     {"convolution_weight_gradient", &MatmulPaths::convolution_weight_gradient}}};
constexpr std::array<std::pair<const char*, MatmulPaths MatmulChoice::*>, 2> kDtypes{
    {{"bf16", &MatmulChoice::bf16}, {"fp16", &MatmulChoice::fp16}}};

MatmulPath parse_path(std::string_view text) {
  for (const auto& [name, value] : kPathNames)
    if (name == text) return value;
  throw UserError(fmt::format("expected native or widened for a 16-bit matmul, got '{}'", text));
}

std::optional<GemmLibrary> library_named(std::string_view text) {
  for (const auto& [name, value] : kLibraryNames)
    if (name == text) return value;
  return std::nullopt;
}

std::string unknown_product(std::string_view key) {
  std::string products;
  for (const auto& [direction, member] : kDirections)
    products += fmt::format("{}.{}", products.empty() ? "" : ", ", direction);
  return fmt::format(
      "expected fp32, or bf16 or fp16, alone or with one of {} behind it, before the '=' of a "
      "matmul choice, got '{}'",
      products, key);
}

void apply_item(std::string_view item, MatmulChoice& choice) {
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
  const MatmulPath path = parse_path(word);
  bool known = false;
  for (const auto& [dtype, paths] : kDtypes) {
    for (const auto& [direction, member] : kDirections) {
      if (equals != item.npos && key != dtype && key != fmt::format("{}.{}", dtype, direction))
        continue;
      (choice.*paths).*member = path;
      known = true;
    }
  }
  if (!known) throw UserError(unknown_product(key));
}

/// The directions that do not go the way of the forward product.
std::vector<std::pair<const char*, MatmulPath>> exceptions_of(const MatmulPaths& paths) {
  std::vector<std::pair<const char*, MatmulPath>> exceptions;
  for (const auto& [direction, member] : kDirections)
    if (paths.*member != paths.forward) exceptions.emplace_back(direction, paths.*member);
  return exceptions;
}

MatmulChoice decide() {
  const std::string text = matmul_environment();
  if (text.empty()) return measured_matmul_paths().choice;
  const MatmulChoice named = parse_matmul_choice(text);
  // Every dtype and direction named: nothing left to measure.
  const MatmulChoice other = parse_matmul_choice(text, parse_matmul_choice("native,onednn"));
  return named == other ? named : parse_matmul_choice(text, measured_matmul_paths().choice);
}

std::mutex choice_mutex;
std::optional<MatmulChoice> choice_in_force;

}  // namespace

std::string to_string(MatmulPath path) {
  for (const auto& [name, value] : kPathNames)
    if (value == path) return name;
  return "?";
}

std::string to_string(GemmLibrary library) {
  for (const auto& [name, value] : kLibraryNames)
    if (value == library) return name;
  return "?";
}

MatmulPaths without_convolutions(MatmulPaths paths) {
  paths.convolution = paths.convolution_input_gradient = paths.convolution_weight_gradient =
      paths.forward;
  return paths;
}

std::string to_string(const MatmulPaths& paths) {
  std::string text = to_string(paths.forward);
  for (const auto& [direction, path] : exceptions_of(paths))
    text += fmt::format(", {}={}", direction, to_string(path));
  return text;
}

std::string to_string(const MatmulChoice& choice) {
  std::string text;
  for (const auto& [dtype, member] : kDtypes) {
    const MatmulPaths& paths = choice.*member;
    text += fmt::format("{}={},", dtype, to_string(paths.forward));
    for (const auto& [direction, path] : exceptions_of(paths))
      text += fmt::format("{}.{}={},", dtype, direction, to_string(path));
  }
  return text + "fp32=" + to_string(choice.fp32);
}

MatmulChoice parse_matmul_choice(std::string_view text, const MatmulChoice& base) {
  MatmulChoice choice = base;
  while (true) {
    const std::size_t comma = text.find(',');
    apply_item(text.substr(0, comma), choice);
    if (comma == text.npos) break;
    text.remove_prefix(comma + 1);
  }
  return choice;
}

MatmulChoice matmul_paths() {
  const std::lock_guard<std::mutex> lock(choice_mutex);
  if (!choice_in_force) choice_in_force = decide();
  return *choice_in_force;
}

std::optional<MatmulChoice> decided_matmul_paths() {
  const std::lock_guard<std::mutex> lock(choice_mutex);
  return choice_in_force;
}

void set_matmul_paths(const MatmulChoice& choice) {
  const std::lock_guard<std::mutex> lock(choice_mutex);
  choice_in_force = choice;
}

}  // namespace halftone
