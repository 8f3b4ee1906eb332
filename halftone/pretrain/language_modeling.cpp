// SPDX-License-Identifier: Apache-2.0
#include "halftone/pretrain/language_modeling.h"

#include <cmath>
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

torch::Tensor LanguageModeling::cross_entropy(const TokenBatch& batch) {
  return model_->loss(batch.input_ids, batch.target_ids, batch.loss_mask).cross_entropy;
}

void LanguageModeling::validation_step(const TokenBatch& batch, std::int64_t index) {
  if (index == 0) validated_ = TextLoss(options_.token_bytes);
  if (index == 0 && dataloader_index() == 0) bad_batch_.reset();
  const auto loss = cross_entropy(batch).item<double>();
  if (!std::isfinite(loss) && !bad_batch_) bad_batch_ = BadBatch{batch, index, loss};
  validated_.add(loss, batch);
}

void LanguageModeling::on_validation_loader_end() {
  if (validated_.tokens() == 0) return;
  log(kValidationLoss, validated_.loss(), 1.0);
  log("val_perplexity", validated_.perplexity(), 1.0);
  if (validated_.bytes() > 0) log("val_bits_per_byte", validated_.bits_per_byte(), 1.0);
}

std::vector<OptimizerSetup> LanguageModeling::configure_optimizers() {
  std::vector<std::pair<std::string, torch::Tensor>> named;
  for (const auto& parameter : model_->named_parameters())
    named.emplace_back(parameter.key(), parameter.value());
  return {{std::make_shared<AdamW>(std::move(named), options_.adamw), options_.schedule}};
}

}  // namespace halftone
