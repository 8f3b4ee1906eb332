// SPDX-License-Identifier: Apache-2.0
// Which layers of a decoder have an adapter, LoRA (Hu et al. 2021), and what becomes of its
// matrices. Layers are called as PEFT's target_modules call them, parameters as this library's:
// "layers.0.attention.wq.lora_A.weight" (rank, in) and ".lora_B.weight" (out, rank).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "halftone/core/state_dict.h"
#include "halftone/models/model_config.h"

namespace halftone {

/// Field names are the keys lora.* of the configuration file.
struct LoraConfig {
  std::int64_t rank = 0;                                    // 0: no adapters
  std::optional<double> alpha;                              // nothing: twice the rank
  double dropout = 0.0;                                     // of an adapter's input, in training
  std::vector<std::string> targets = {"q_proj", "v_proj"};  // or "all-linear"

  bool operator==(const LoraConfig&) const = default;
};

/// q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj.
std::vector<std::string> lora_target_names();

/// Those of `lora`, in that order, with all of them for all-linear.
std::vector<std::string> lora_targets(const LoraConfig& lora);

/// alpha, with the rule for nothing.
double lora_alpha(const LoraConfig& lora);
/// What B A x is multiplied by: alpha / rank.
double lora_factor(const LoraConfig& lora);

/// Throws UserError, which names the first key that makes no adapter of `model`. REQUIRES a
/// validate()d `model` and a rank above 0.
void validate(const LoraConfig& lora, const ModelConfig& model);

/// Paths of the layers that have an adapter: "layers.0.attention.wq", ... REQUIRES what validate()
/// takes, as the functions below do.
std::vector<std::string> adapted_layers(const LoraConfig& lora, const ModelConfig& model);

/// The parameters of the adapters; builds nothing. None for rank 0.
std::vector<NamedShape> adapter_shapes(const LoraConfig& lora, const ModelConfig& model);

/// The name in lora_target_names() of the layer that a parameter of an adapter belongs to; nothing
/// for the name of another tensor.
std::optional<std::string> lora_target_of(std::string_view parameter);

/// Those of `parameters` that are an adapter's; and those that are not.
StateDict adapter_parameters(const StateDict& parameters);
StateDict base_parameters(const StateDict& parameters);

/// The parameters of the model without adapters that computes the same: W + factor B A, in fp32.
/// What is lazy stays lazy. Throws UserError for half an adapter.
StateDict merged_parameters(const StateDict& parameters, const LoraConfig& lora);

}  // namespace halftone
