// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "halftone/data/token_loader.h"
#include "halftone/models/causal_lm.h"
#include "halftone/optim/adamw.h"
#include "halftone/pretrain/text_loss.h"
#include "halftone/train/training_module.h"

namespace halftone {

/// What validation logs the loss as.
inline constexpr const char* kValidationLoss = "val_loss";

struct LanguageModelingOptions {
  AdamWOptions adamw;
  LrScheduleOptions schedule;
  /// Bytes of text that each id stands for, for val_bits_per_byte; empty: validation logs none.
  std::vector<std::int64_t> token_bytes = {};
  double dpo_beta = 0.15;  ///< with a reference model
};

/// The loss of `model` on a batch on its device, each document of a row for itself where the batch
/// says where they end.
LossOutput loss_of(CausalLM& model, const TokenBatch& batch);

struct LikelihoodOutput {
  torch::Tensor sums;      // (B) fp32: of the log-likelihoods of each row's targets that count
  torch::Tensor aux_loss;  // as in ModelOutput
};
LikelihoodOutput log_likelihoods(CausalLM& model, const TokenBatch& batch);

/// MiniMind's objective: the masked cross entropy of the next token plus the routers' auxiliary
/// loss, which is logged as "aux_loss" too; one AdamW over all parameters that learn. The cross
/// entropy of an optimizer step is the mean over its predicted tokens, the auxiliary loss that over
/// its rows. Validation logs the cross entropy alone, with what halftone eval makes of it:
/// "val_loss", "val_perplexity", "val_bits_per_byte".
///
/// With a reference model it learns from preferences instead: the cross entropy is replaced by the
/// mean over pairs of
/// -log sigmoid(beta ((c - r) - (c_ref - r_ref))), where c and r are the log_likelihoods() of the
/// better chat and the other one, and c_ref and r_ref those by the reference. Logged are the
/// rewards beta (c - c_ref) and beta (r - r_ref), their difference, and how often it is positive.
class LanguageModeling : public TrainingModule<TokenBatch> {
 public:
  LanguageModeling(CausalLM model, const LanguageModelingOptions& options);

  torch::Tensor training_step(const TokenBatch& batch, std::int64_t index) override;
  double loss_weight(const TokenBatch& batch) const override {
    return static_cast<double>(learns_preferences() ? batch.pairs : batch.tokens);
  }
  void validation_step(const TokenBatch& batch, std::int64_t index) override;
  void on_validation_loader_end() override;
  std::vector<OptimizerSetup> configure_optimizers(const OptimizerContext& context) override;
  torch::nn::Module& network() override { return *model_; }
  /// `reference` has the dtype and the device of the model once configure_optimizers() was called,
  /// and is never changed or saved with it.
  void set_reference(CausalLM reference) { reference_ = std::move(reference); }
  bool has_reference() const { return !reference_.is_empty(); }
  CausalLM& reference() { return reference_; }
  /// In its place: the model itself without its adapters, which takes no memory.
  void set_base_as_reference() { base_is_reference_ = true; }

  CausalLM& model() { return model_; }
  /// The mean over the predicted tokens of a batch on the model's device, in nats.
  torch::Tensor cross_entropy(const TokenBatch& batch);

  struct BadBatch {
    TokenBatch batch;
    std::int64_t index;  // from 0
    double loss;
  };
  /// The first batch of the last validation whose loss was not finite.
  const std::optional<BadBatch>& bad_batch() const { return bad_batch_; }

 private:
  bool learns_preferences() const { return has_reference() || base_is_reference_; }
  torch::Tensor likelihoods_by_reference(const TokenBatch& batch);
  LossOutput preference_loss(const TokenBatch& batch, const std::string& prefix);

  CausalLM model_;
  CausalLM reference_{nullptr};  // not registered: neither trained nor saved
  bool base_is_reference_ = false;
  LanguageModelingOptions options_;
  TextLoss validated_;  // so far
  std::optional<BadBatch> bad_batch_;
};

}  // namespace halftone
