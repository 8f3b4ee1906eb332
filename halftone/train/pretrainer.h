// SPDX-License-Identifier: Apache-2.0
// The training loop: MiniMind's recipe with its known defects mended (docs/numerics.md lists them).
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <filesystem>

#include "halftone/data/batch_loader.h"
#include "halftone/models/minimind.h"
#include "halftone/optim/adamw.h"
#include "halftone/optim/lr_schedule.h"
#include "halftone/train/checkpoint.h"
#include "halftone/train/metrics_log.h"
#include "halftone/train/mixed_precision.h"
#include "halftone/train/run_length.h"

namespace halftone {

struct PretrainerOptions {
  RunLimits limits;
  std::int64_t accumulate = 1;  // micro-batches of one optimizer step
  LrScheduleOptions schedule;   // warmup in optimizer steps
  double clip_norm = 1.0;       // 0: no clipping
  AdamWOptions adamw;
  torch::Device device = torch::kCPU;
};

/// Trains a language model on batches of tokens, one optimizer step at a time. Everything that
/// decides the next step (weights, moments, scale, random state, data position, counters) is in
/// checkpoint(): a trainer that loads it goes on with the same bits.
class Pretrainer {
 public:
  /// Converts the model to the precision's dtype and takes its parameters into the optimizer.
  Pretrainer(MiniMindLM model, BatchLoader loader, MixedPrecision precision,
             const PretrainerOptions& options);

  /// One update from `accumulate` micro-batches: loss terms under autocast, scaled backward, then
  /// unscale, clip and step in one pass. Waits for the device once, for the returned numbers.
  StepMetrics step();

  bool finished() const { return length_.finished(counters_); }
  double progress() const { return length_.progress(counters_); }
  const RunLength& length() const { return length_; }
  const RunCounters& counters() const { return counters_; }
  MiniMindLM& model() { return model_; }
  const BatchLoader& loader() const { return loader_; }

  Checkpoint checkpoint() const;
  /// Throws UserError when the checkpoint is of another model, data set or recipe.
  void load_checkpoint(const Checkpoint& checkpoint);

 private:
  struct LossTerms {
    torch::Tensor loss;  // scalar fp32, auxiliary loss included
    torch::Tensor aux_loss;
  };
  LossTerms forward(const Batch& batch);

  MiniMindLM model_;
  BatchLoader loader_;
  MixedPrecision precision_;
  PretrainerOptions options_;
  RunLength length_;
  AdamW optimizer_;
  RunCounters counters_;
};

}  // namespace halftone
