// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "halftone/data/token_loader.h"
#include "halftone/models/minimind.h"
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
};

/// MiniMind's objective: the masked cross entropy of the next token plus the routers' auxiliary
/// loss, which is logged as "aux_loss" too; one AdamW over all parameters. The cross entropy of an
/// optimizer step is the mean over its predicted tokens, the auxiliary loss that over its rows.
/// Validation logs the cross entropy alone, with what halftone eval makes of it: "val_loss",
/// "val_perplexity", "val_bits_per_byte".
class LanguageModeling : public TrainingModule<TokenBatch> {
 public:
  LanguageModeling(MiniMindLM model, const LanguageModelingOptions& options);

  torch::Tensor training_step(const TokenBatch& batch, std::int64_t index) override;
  double loss_weight(const TokenBatch& batch) const override {
    return static_cast<double>(batch.tokens);
  }
  void validation_step(const TokenBatch& batch, std::int64_t index) override;
  void on_validation_loader_end() override;
  std::vector<OptimizerSetup> configure_optimizers() override;
  torch::nn::Module& network() override { return *model_; }

  MiniMindLM& model() { return model_; }
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
  MiniMindLM model_;
  LanguageModelingOptions options_;
  TextLoss validated_;  // so far
  std::optional<BadBatch> bad_batch_;
};

}  // namespace halftone
