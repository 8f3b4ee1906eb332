// SPDX-License-Identifier: Apache-2.0
#include "halftone/train/layer_precision.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "halftone/core/error.h"
#include "halftone/core/log.h"
#include "halftone/core/text.h"
#include "halftone/kernels/gemm/matmul_format.h"
#include "halftone/nn/lm_head.h"
#include "halftone/nn/torch_layers.h"
#include "halftone/precision/module_pattern_impl.h"
#include "halftone/train/precision_hints.h"

namespace halftone {
namespace {

using torch::Tensor;

constexpr const char* kLayerPrecision = "layer_precision";

/// The modules of a network, and which of them are linear layers.
struct LinearLayers {
  std::vector<ModuleName> modules;
  std::map<std::string, Tensor> weights;      // by the path of a layer whose format can be chosen
  std::map<std::string, TorchLayer> foreign;  // LibTorch's, by path
};

LinearLayers linear_layers(torch::nn::Module& root) {
  LinearLayers layers;
  root.apply([&](const std::string& path, torch::nn::Module& module) {
    layers.modules.push_back({path, module.name()});
    if (const Tensor weight = multiplied_weight(module); weight.defined())
      layers.weights[path] = weight;
    if (TorchLayer layer = torch_layer(module); !layer.name.empty())
      layers.foreign.emplace(path, std::move(layer));
  });
  return layers;
}

ComputeType parse_format(const std::string& text, const std::string& name) {
  std::vector<std::string> names;
  for (const ComputeType type : compute_types()) {
    names.emplace_back(to_string(type));
    if (names.back() == name) return type;
  }
  const std::optional<std::string> nearest = nearest_match(name, names);
  throw UserError(fmt::format(
      "layer_precision: expected a format out of {} behind the last '=', got '{}' in '{}'{}",
      fmt::join(names, ", "), name, text,
      nearest ? fmt::format("; did you mean '{}'?", *nearest) : ""));
}

bool belongs_to(const std::string& layer, const std::vector<std::string>& paths) {
  return std::any_of(paths.begin(), paths.end(), [&](const std::string& path) {
    return path == layer || is_below(layer, path);
  });
}

/// The paths of the layers that one text names.
std::vector<std::string> layers_of(const std::string& text, const LinearLayers& layers) {
  const ModulePattern pattern(kLayerPrecision, parse_layer_precision(text).pattern);
  std::vector<std::string> matched, named;
  for (const ModuleName& module : layers.modules)
    if (pattern.matches(module)) matched.push_back(module.path);
  if (matched.empty()) throw pattern.matches_nothing(layers.modules);
  for (const auto& [path, layer] : layers.foreign)
    if (belongs_to(path, matched))
      throw UserError(fmt::format(
          "layer_precision: '{}' matches '{}', a {}, which multiplies as the precision says; "
          "{}narrow the pattern",
          text, path, layer.name,
          layer.ours.empty() ? "" : fmt::format("build it of {}, or ", layer.ours)));
  for (const auto& [path, weight] : layers.weights)
    if (belongs_to(path, matched)) named.push_back(path);
  if (named.empty())
    throw UserError(fmt::format(
        "layer_precision: expected linear layers, '{}' matches only modules without one ('{}')",
        text, matched.back()));
  return named;
}

}  // namespace

LayerPrecision parse_layer_precision(const std::string& text) {
  const std::size_t split = text.rfind('=');
  if (split == std::string::npos)
    throw UserError(fmt::format(
        "layer_precision: expected REGEX=FORMAT, such as feed_forward=int8, got '{}'", text));
  const LayerPrecision choice{.pattern = text.substr(0, split),
                              .format = parse_format(text, text.substr(split + 1))};
  const ModulePattern checked(kLayerPrecision, choice.pattern);
  return choice;
}

void check_layer_precision(const std::vector<std::string>& texts, const PrecisionPolicy& policy) {
  if (texts.empty()) return;
  if (!policy.is_mixed())
    throw UserError(fmt::format(
        "layer_precision goes with a mixed precision, but precision is {}; name one that ends in "
        "-mixed, or leave it out",
        policy.name));
  for (const std::string& text : texts) {
    const ComputeType format = parse_layer_precision(text).format;
    if (can_stand_among(format, policy.compute)) continue;
    std::vector<std::string_view> others;
    for (const ComputeType type : compute_types())
      if (can_stand_among(type, policy.compute)) others.push_back(to_string(type));
    throw UserError(
        fmt::format("layer_precision: expected a format that can stand among the layers of {} "
                    "({}), got '{}'",
                    policy.name, fmt::join(others, ", "), text));
  }
}

std::map<std::string, ComputeType> layer_types(torch::nn::Module& root,
                                               const std::vector<std::string>& texts,
                                               const PrecisionPolicy& policy) {
  check_layer_precision(texts, policy);
  std::map<std::string, ComputeType> types;
  if (texts.empty()) return types;
  const LinearLayers layers = linear_layers(root);
  for (const std::string& text : texts)
    for (const std::string& path : layers_of(text, layers))
      types[path] = parse_layer_precision(text).format;
  return types;
}

std::shared_ptr<const LayerFormats> layer_formats(torch::nn::Module& root,
                                                  const std::map<std::string, ComputeType>& types) {
  const LinearLayers layers = linear_layers(root);
  auto formats = std::make_shared<LayerFormats>();
  for (const auto& [path, type] : types) {
    const auto found = layers.weights.find(path);
    HALFTONE_CHECK(found != layers.weights.end(), "[layer_precision] expected a layer at '", path,
                   "', got none");
    formats->set(found->second, type);
  }
  return formats;
}

void log_layer_types(const std::map<std::string, ComputeType>& types, torch::Device device) {
  std::vector<std::string> parts, remarks;
  for (const ComputeType type : compute_types()) {
    std::vector<std::string> paths;
    for (const auto& [path, of_layer] : types)
      if (of_layer == type) paths.push_back(path);
    if (paths.empty()) continue;
    constexpr std::size_t kShown = 4;
    const auto shown = paths.begin() + static_cast<long>(std::min(kShown, paths.size()));
    parts.push_back(fmt::format("{} in {} ({}{})", paths.size(), to_string(type),
                                fmt::join(paths.begin(), shown, ", "),
                                paths.size() > kShown ? ", ..." : ""));
    if (std::string remark = matmul_format(type).remark(device); !remark.empty())
      remarks.push_back(std::move(remark));
  }
  if (!parts.empty())
    log_note(fmt::format("layers with a format of their own: {}", fmt::join(parts, "; ")));
  log_hints(remarks);
}

}  // namespace halftone
