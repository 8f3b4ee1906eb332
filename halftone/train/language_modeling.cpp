// SPDX-License-Identifier: Apache-2.0
#include "halftone/train/language_modeling.h"

#include <memory>
#include <string>
#include <utility>

#include "halftone/nn/loss.h"

namespace halftone {

LanguageModeling::LanguageModeling(MiniMindLM model, const LanguageModelingOptions& options)
    : model_(std::move(model)), options_(options) {
  register_module("model", model_);
}

torch::Tensor LanguageModeling::training_step(const Batch& batch, std::int64_t /*index*/) {
  const ModelOutput output = model_->forward(batch.input_ids);
  const torch::Tensor cross_entropy = masked_cross_entropy(
      output.logits.flatten(0, 1), batch.target_ids.flatten(), batch.loss_mask.flatten());
  count_tokens(batch.tokens);
  if (model_->config().use_moe) log("aux_loss", output.aux_loss);
  return cross_entropy + output.aux_loss;
}

std::vector<OptimizerSetup> LanguageModeling::configure_optimizers() {
  std::vector<std::pair<std::string, torch::Tensor>> named;
  for (const auto& parameter : model_->named_parameters())
    named.emplace_back(parameter.key(), parameter.value());
  return {{std::make_shared<AdamW>(std::move(named), options_.adamw), options_.schedule}};
}

}  // namespace halftone
