// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "halftone/data/token_loader.h"
#include "halftone/models/minimind.h"
#include "halftone/optim/adamw.h"
#include "halftone/train/training_module.h"

namespace halftone {

struct LanguageModelingOptions {
  AdamWOptions adamw;
  LrScheduleOptions schedule;
};

/// MiniMind's objective: the masked cross entropy of the next token plus the routers' auxiliary
/// loss, which is logged as "aux_loss" too; one AdamW over all parameters. The cross entropy of an
/// optimizer step is the mean over its predicted tokens, the auxiliary loss that over its rows.
class LanguageModeling : public TrainingModule<TokenBatch> {
 public:
  LanguageModeling(MiniMindLM model, const LanguageModelingOptions& options);

  torch::Tensor training_step(const TokenBatch& batch, std::int64_t index) override;
  double loss_weight(const TokenBatch& batch) const override {
    return static_cast<double>(batch.tokens);
  }
  std::vector<OptimizerSetup> configure_optimizers() override;
  torch::nn::Module& network() override { return *model_; }

  MiniMindLM& model() { return model_; }

 private:
  MiniMindLM model_;
  LanguageModelingOptions options_;
};

}  // namespace halftone
