// SPDX-License-Identifier: Apache-2.0
#include "halftone/train/layer_choices.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <sstream>

namespace halftone {
namespace {

constexpr const char* kKeepFp32Key = "keep_fp32";
constexpr const char* kLayerPrecisionKey = "layer_precision";

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

std::string shown(const std::vector<std::string>& list) {
  return list.empty() ? "none" : fmt::format("{}", fmt::join(list, " and "));
}

}  // namespace

std::string LayerChoices::to_string() const {
  return fmt::format("keep_fp32 {}, layer_precision {}", shown(keep_fp32), shown(layer_precision));
}

// A pattern has no line break: it would match no module's path.
void save_layer_choices(const LayerChoices& choices, StateDict& trainer) {
  trainer.values[kKeepFp32Key] = fmt::format("{}", fmt::join(choices.keep_fp32, "\n"));
  trainer.values[kLayerPrecisionKey] = fmt::format("{}", fmt::join(choices.layer_precision, "\n"));
}

std::optional<LayerChoices> saved_layer_choices(const StateDict& trainer) {
  if (!trainer.values.contains(kKeepFp32Key) || !trainer.values.contains(kLayerPrecisionKey))
    return std::nullopt;
  return LayerChoices{.keep_fp32 = lines_of(trainer.get<std::string>(kKeepFp32Key)),
                      .layer_precision = lines_of(trainer.get<std::string>(kLayerPrecisionKey))};
}

}  // namespace halftone
