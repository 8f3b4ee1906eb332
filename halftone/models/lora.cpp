// SPDX-License-Identifier: Apache-2.0
#include "halftone/models/lora.h"

#include <ATen/ops/addmm.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>

#include "halftone/core/error.h"
#include "halftone/core/text.h"

namespace halftone {
namespace {

using torch::Tensor;

struct Target {
  std::string_view name;   // PEFT's
  std::string_view layer;  // this library's, below that of the block
  bool is_expert = false;  // where a model has experts
};

constexpr std::array<Target, 7> kTargets{{{"q_proj", "attention.wq"},
                                          {"k_proj", "attention.wk"},
                                          {"v_proj", "attention.wv"},
                                          {"o_proj", "attention.wo"},
                                          {"gate_proj", "feed_forward.w1", true},
                                          {"up_proj", "feed_forward.w3", true},
                                          {"down_proj", "feed_forward.w2", true}}};
constexpr std::string_view kAllLinear = "all-linear";
constexpr std::string_view kA = ".lora_A.weight";
constexpr std::string_view kB = ".lora_B.weight";

/// In the order of kTargets, each once.
std::vector<Target> targets_of(const LoraConfig& lora) {
  const auto is_named = [&](std::string_view name) {
    return std::find(lora.targets.begin(), lora.targets.end(), name) != lora.targets.end();
  };
  std::vector<Target> targets;
  for (const Target& target : kTargets)
    if (is_named(target.name) || is_named(kAllLinear)) targets.push_back(target);
  return targets;
}

void check_targets(const LoraConfig& lora, const ModelConfig& model) {
  std::vector<std::string> names = lora_target_names();
  names.emplace_back(kAllLinear);
  if (lora.targets.empty())
    throw UserError(
        fmt::format("lora.targets: expected one or more of {}, got none", fmt::join(names, ", ")));
  for (const std::string& name : lora.targets) {
    if (std::find(names.begin(), names.end(), name) != names.end()) continue;
    const std::optional<std::string> nearest = nearest_match(name, names);
    throw UserError(fmt::format("lora.targets: expected one or more of {}, got '{}'{}",
                                fmt::join(names, ", "), name,
                                nearest ? fmt::format("; did you mean '{}'?", *nearest) : ""));
  }
  if (!model.use_moe) return;
  for (const Target& target : targets_of(lora))
    if (target.is_expert)
      throw UserError(fmt::format(
          "lora.targets: {} belongs to the experts of this model, which take no adapters; choose "
          "from q_proj, k_proj, v_proj and o_proj",
          target.name));
}

/// The shapes of the model's matrices, by name.
std::map<std::string, std::vector<std::int64_t>> matrices_of(const ModelConfig& model) {
  std::map<std::string, std::vector<std::int64_t>> matrices;
  for (const NamedShape& parameter : parameter_shapes(model))
    if (parameter.sizes.size() == 2) matrices[parameter.name] = parameter.sizes;
  return matrices;
}

bool is_adapters(std::string_view name) { return name.ends_with(kA) || name.ends_with(kB); }

StateDict part_of(const StateDict& parameters, bool adapters) {
  StateDict part;
  for (const auto& [name, tensor] : parameters.tensors) {
    if (is_adapters(name) != adapters) continue;
    part.tensors[name] = tensor;
    if (const auto read = parameters.lazy.find(name); read != parameters.lazy.end())
      part.lazy[name] = read->second;
  }
  return part;
}

Tensor merged(const Tensor& weight, const Tensor& a, const Tensor& b, double factor) {
  const torch::NoGradGuard no_grad;
  return at::addmm(weight.to(torch::kFloat), b.to(torch::kFloat), a.to(torch::kFloat), 1.0, factor);
}

}  // namespace

std::vector<std::string> lora_target_names() {
  std::vector<std::string> names;
  for (const Target& target : kTargets) names.emplace_back(target.name);
  return names;
}

std::vector<std::string> lora_targets(const LoraConfig& lora) {
  std::vector<std::string> names;
  for (const Target& target : targets_of(lora)) names.emplace_back(target.name);
  return names;
}

double lora_alpha(const LoraConfig& lora) {
  return lora.alpha.value_or(2.0 * static_cast<double>(lora.rank));
}

double lora_factor(const LoraConfig& lora) {
  return lora_alpha(lora) / static_cast<double>(lora.rank);
}

void validate(const LoraConfig& lora, const ModelConfig& model) {
  if (lora.rank < 1)
    throw UserError(fmt::format("lora.rank: expected 1 or more, got {}", lora.rank));
  if (!(lora_alpha(lora) > 0.0) || !std::isfinite(lora_alpha(lora)))
    throw UserError(fmt::format("lora.alpha: expected a positive number, got {}", *lora.alpha));
  if (!(lora.dropout >= 0.0 && lora.dropout < 1.0))
    throw UserError(
        fmt::format("lora.dropout: expected a number from 0 to below 1, got {}", lora.dropout));
  check_targets(lora, model);
  const auto matrices = matrices_of(model);
  for (const std::string& layer : adapted_layers(lora, model)) {
    const std::vector<std::int64_t>& sizes = matrices.at(layer + ".weight");
    if (const std::int64_t least = std::min(sizes[0], sizes[1]); lora.rank > least)
      throw UserError(
          fmt::format("lora.rank: expected at most {}, the smaller side of {} ({} x {}), got {}",
                      least, layer, sizes[0], sizes[1], lora.rank));
  }
}

std::vector<std::string> adapted_layers(const LoraConfig& lora, const ModelConfig& model) {
  std::vector<std::string> layers;
  for (std::int64_t i = 0; i < model.n_layers; ++i)
    for (const Target& target : targets_of(lora))
      layers.push_back(fmt::format("layers.{}.{}", i, target.layer));
  return layers;
}

std::vector<NamedShape> adapter_shapes(const LoraConfig& lora, const ModelConfig& model) {
  std::vector<NamedShape> shapes;
  if (lora.rank == 0) return shapes;
  const auto matrices = matrices_of(model);
  for (const std::string& layer : adapted_layers(lora, model)) {
    const std::vector<std::int64_t>& sizes = matrices.at(layer + ".weight");
    shapes.push_back({fmt::format("{}{}", layer, kA), {lora.rank, sizes[1]}});
    shapes.push_back({fmt::format("{}{}", layer, kB), {sizes[0], lora.rank}});
  }
  return shapes;
}

std::optional<std::string> lora_target_of(std::string_view parameter) {
  constexpr std::string_view kLayers = "layers.";
  if (!is_adapters(parameter) || !parameter.starts_with(kLayers)) return std::nullopt;
  parameter.remove_suffix(kA.size());
  parameter.remove_prefix(kLayers.size());
  const std::size_t dot = parameter.find('.');
  if (dot == std::string_view::npos) return std::nullopt;
  for (const Target& target : kTargets)
    if (parameter.substr(dot + 1) == target.layer) return std::string(target.name);
  return std::nullopt;
}

StateDict adapter_parameters(const StateDict& parameters) { return part_of(parameters, true); }

StateDict base_parameters(const StateDict& parameters) { return part_of(parameters, false); }

StateDict merged_parameters(const StateDict& parameters, const LoraConfig& lora) {
  constexpr std::string_view kWeight = ".weight";
  StateDict result = base_parameters(parameters);
  if (lora.rank == 0) return result;
  const double factor = lora_factor(lora);
  for (auto& entry : result.tensors) {
    const std::string& name = entry.first;
    if (!name.ends_with(kWeight)) continue;
    const std::string layer = name.substr(0, name.size() - kWeight.size());
    const std::string a = fmt::format("{}{}", layer, kA), b = fmt::format("{}{}", layer, kB);
    if (!parameters.tensors.contains(a) && !parameters.tensors.contains(b)) continue;
    const auto merge = [parameters, name, a, b, factor] {
      return merged(parameters.tensor(name), parameters.tensor(a), parameters.tensor(b), factor);
    };
    parameters.meta(a);  // throws where it is missing
    parameters.meta(b);
    const bool waits = result.lazy.contains(name);
    entry.second = waits ? entry.second.to(torch::kFloat) : merge();
    if (waits) result.lazy[name] = merge;
  }
  return result;
}

}  // namespace halftone
