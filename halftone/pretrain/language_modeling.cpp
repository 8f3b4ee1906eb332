// SPDX-License-Identifier: Apache-2.0
#include "halftone/pretrain/language_modeling.h"

#include <memory>
#include <string>
#include <utility>

namespace halftone {

LanguageModeling::LanguageModeling(MiniMindLM model, const LanguageModelingOptions& options)
    : model_(std::move(model)), options_(options) {
  register_module("model", model_);
}

torch::Tensor LanguageModeling::training_step(const TokenBatch& batch, std::int64_t /*index*/) {
  const LossOutput loss = model_->loss(batch.input_ids, batch.target_ids, batch.loss_mask);
  count_tokens(batch.tokens);
  if (!model_->config().use_moe) return loss.total();
  log("aux_loss", loss.aux_loss, batch_weight().samples);
  return loss.cross_entropy + over_samples(loss.aux_loss);
}

std::vector<OptimizerSetup> LanguageModeling::configure_optimizers() {
  std::vector<std::pair<std::string, torch::Tensor>> named;
  for (const auto& parameter : model_->named_parameters())
    named.emplace_back(parameter.key(), parameter.value());
  return {{std::make_shared<AdamW>(std::move(named), options_.adamw), options_.schedule}};
}

}  // namespace halftone
