// SPDX-License-Identifier: Apache-2.0
#include "halftone/plan/layer_plan.h"

#include <string_view>

#include "halftone/train/layer_precision.h"

namespace halftone {

CausalLM smallest_model(const ModelConfig& config, const LoraConfig& lora) {
  ModelConfig smallest = config;
  smallest.dim = smallest.head_dim = 2;
  smallest.n_heads = smallest.n_kv_heads = smallest.hidden_dim = smallest.vocab_size = 1;
  CausalLM model(smallest);
  LoraConfig thinnest = lora;
  thinnest.rank = 1;
  if (lora.rank > 0) model->add_adapters(thinnest);
  return model;
}

std::map<std::string, ComputeType> planned_layer_types(const ModelConfig& config,
                                                       const std::vector<std::string>& texts,
                                                       const PrecisionPolicy& policy,
                                                       const LoraConfig& lora) {
  if (texts.empty()) return {};
  return layer_types(*smallest_model(config, lora), texts, policy);
}

std::vector<PlannedLayer> planned_layers(const ModelConfig& config) {
  constexpr std::string_view kWeight = ".weight";
  const double expert_share = config.use_moe ? static_cast<double>(config.num_experts_per_tok) /
                                                   static_cast<double>(config.n_routed_experts)
                                             : 1.0;
  std::vector<PlannedLayer> layers;
  for (const NamedShape& parameter : parameter_shapes(config)) {
    const std::string path = parameter.name.substr(0, parameter.name.size() - kWeight.size());
    if (parameter.sizes.size() != 2 || path == "tok_embeddings" || path == "output" ||
        path.ends_with(".gate"))
      continue;
    const double share = path.find(".experts.") == std::string::npos ? 1.0 : expert_share;
    layers.push_back({path, share * static_cast<double>(parameter.sizes[0]) *
                                static_cast<double>(parameter.sizes[1])});
  }
  return layers;
}

}  // namespace halftone
