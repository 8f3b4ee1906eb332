// SPDX-License-Identifier: Apache-2.0
#include "halftone/pretrain/language_modeling.h"

#include <cmath>
#include <memory>
#include <string>
#include <utility>

#include "halftone/kernels/linear/compute_context.h"
#include "halftone/nn/evaluation_mode.h"
#include "halftone/nn/packed_parameters.h"

namespace halftone {
namespace {

/// In force while a model reads `batch`.
ComputeContext context_of(const TokenBatch& batch) {
  ComputeContext context = compute_context();
  context.documents = batch.document_ends;
  return context;
}

}  // namespace

LossOutput loss_of(CausalLM& model, const TokenBatch& batch) {
  const ComputeScope scope(context_of(batch));
  return model->loss(batch.input_ids, batch.target_ids, batch.loss_mask);
}

LikelihoodOutput log_likelihoods(CausalLM& model, const TokenBatch& batch) {
  const ComputeScope scope(context_of(batch));
  const HiddenOutput output = model->hidden(batch.input_ids);
  // Logits of the targets that count alone: a prompt has none.
  const torch::Tensor places = batch.loss_mask.flatten().nonzero().flatten();
  const torch::Tensor logits = model->logits(output.hidden.flatten(0, 1).index_select(0, places));
  const torch::Tensor targets = batch.target_ids.flatten().index_select(0, places);
  const torch::Tensor each =
      logits.to(torch::kFloat).log_softmax(-1).gather(1, targets.unsqueeze(1)).squeeze(1);
  const torch::Tensor rows = places.floor_divide(batch.input_ids.size(1));
  return {torch::zeros({batch.input_ids.size(0)}, each.options()).index_add(0, rows, each),
          output.aux_loss};
}

LanguageModeling::LanguageModeling(CausalLM model, const LanguageModelingOptions& options)
    : model_(std::move(model)), options_(options) {
  register_module("model", model_);
}

torch::Tensor LanguageModeling::training_step(const TokenBatch& batch, std::int64_t /*index*/) {
  count_tokens(batch.tokens);
  const LossOutput loss =
      learns_preferences() ? preference_loss(batch, "") : loss_of(model_, batch);
  if (!model_->config().use_moe) return loss.total();
  log("aux_loss", loss.aux_loss, batch_weight().samples);
  return loss.cross_entropy + over_samples(loss.aux_loss);
}

torch::Tensor LanguageModeling::cross_entropy(const TokenBatch& batch) {
  return loss_of(model_, batch).cross_entropy;
}

torch::Tensor LanguageModeling::likelihoods_by_reference(const TokenBatch& batch) {
  if (has_reference()) {
    const torch::NoGradGuard no_grad;
    return log_likelihoods(reference_, batch).sums;
  }
  const EvaluationMode mode(*model_);
  ComputeContext context = compute_context();
  context.without_adapters = true;
  const ComputeScope scope(std::move(context));
  return log_likelihoods(model_, batch).sums;
}

LossOutput LanguageModeling::preference_loss(const TokenBatch& batch, const std::string& prefix) {
  const LikelihoodOutput ours = log_likelihoods(model_, batch);
  // Rows in turn: the better chat, the other one.
  const torch::Tensor rewards =
      (options_.dpo_beta * (ours.sums - likelihoods_by_reference(batch))).view({-1, 2});
  const torch::Tensor chosen = rewards.select(1, 0), rejected = rewards.select(1, 1);
  const torch::Tensor margin = chosen - rejected;
  log(prefix + "reward_chosen", chosen.detach().mean());
  log(prefix + "reward_rejected", rejected.detach().mean());
  log(prefix + "reward_margin", margin.detach().mean());
  log(prefix + "reward_accuracy", (margin.detach() > 0).to(torch::kFloat).mean());
  return {-torch::log_sigmoid(margin).mean(), ours.aux_loss};
}

void LanguageModeling::validation_step(const TokenBatch& batch, std::int64_t index) {
  if (learns_preferences())
    return log(kValidationLoss, preference_loss(batch, "val_").cross_entropy);
  const bool is_first = index == (processes() == nullptr ? 0 : processes()->rank());
  if (is_first) validated_ = TextLoss(options_.token_bytes);
  if (is_first && dataloader_index() == 0) bad_batch_.reset();
  const auto loss = cross_entropy(batch).item<double>();
  if (!std::isfinite(loss) && !bad_batch_) bad_batch_ = BadBatch{batch, index, loss};
  validated_.add(loss, batch);
}

void LanguageModeling::on_validation_loader_end() {
  TextLoss validated = std::exchange(validated_, TextLoss(options_.token_bytes));
  if (processes() != nullptr) validated.add_up(*processes());
  if (validated.tokens() == 0) return;
  log(kValidationLoss, validated.loss(), 1.0);
  log("val_perplexity", validated.perplexity(), 1.0);
  if (validated.bytes() > 0) log("val_bits_per_byte", validated.bits_per_byte(), 1.0);
}

std::vector<OptimizerSetup> LanguageModeling::configure_optimizers(
    const OptimizerContext& context) {
  std::vector<std::pair<std::string, torch::Tensor>> named;
  for (const auto& parameter : model_->named_parameters())
    if (parameter.value().requires_grad()) named.emplace_back(parameter.key(), parameter.value());
  if (model_->lora().rank > 0) pack_frozen_parameters(*model_);
  if (has_reference()) {
    const torch::Tensor weight = model_->parameters().front();
    reference_->to(weight.device(), weight.scalar_type());
    reference_->eval();
  }
  return {{std::make_shared<AdamW>(std::move(named), context.adamw(options_.adamw)),
           options_.schedule}};
}

}  // namespace halftone
