// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "halftone/core/process_group.h"
#include "halftone/precision/grad_scaler.h"
#include "halftone/precision/memory_policy.h"
#include "halftone/train/callback.h"
#include "halftone/train/epoch_part.h"
#include "halftone/train/logger.h"

namespace halftone {

struct SavedModel;

struct TrainerOptions {
  std::optional<std::int64_t> max_epochs;  // no limit at all: one epoch
  std::optional<std::int64_t> max_steps;   // optimizer steps, skipped ones included
  std::optional<double> max_time;          // seconds of training
  /// docs/numerics.md lists them. Lightning's short names too: "16" is 16-mixed, "bf16" is
  /// bf16-mixed, "32" is 32-true.
  std::string precision = "32-true";
  std::string accelerator =
      "auto";  // "cpu", "gpu", "cuda", "cuda:N"; auto: CUDA where there is one
  /// Processes that train together, each on a device of its own (docs/many_processes.md). 0: as
  /// many as were started together; another number must be that.
  std::int64_t devices = 0;
  /// Of those processes, instead of the one that was started with this one.
  std::shared_ptr<ProcessGroup> process_group;
  /// What of the training state each of those processes has a part of only: "none"; "optimizer",
  /// the moments and masters of a halftone::AdamW; "gradients", these as well, which are summed
  /// after each batch then; "parameters", the weights as well, those of the blocks that the module
  /// runs through recompute(). Within fit() all processes then call validate(), test() and
  /// predict(), and on_save_checkpoint() calls none of them; after an error each has its part of
  /// the weights alone. The numbers are the same, but for the order of sums over several batches.
  std::string shard = "none";
  /// How the gradients of an update's batches are added up in a process: "sequential", or "tree",
  /// which gives the same bits however many processes (1, 2, 4, ...) share the batches, and takes a
  /// copy of the gradients for each level of the tree.
  std::string gradient_sum = "sequential";
  /// How gradients travel between them: "fp32", or "bf16", which halves the bytes and rounds twice.
  std::string reduce_dtype = "fp32";
  std::int64_t accumulate_grad_batches = 1;  // batches of one optimizer step
  /// Over what the loss of such a step is the mean: "tokens", or whatever else loss_weight()
  /// counts; or "micro-batches", which weigh the same.
  std::string loss_average = "tokens";
  double gradient_clip_val = 0.0;                // 0: no clipping
  std::string gradient_clip_algorithm = "norm";  // or "value"
  std::vector<std::shared_ptr<Callback>> callbacks;
  /// Sinks beside metrics.jsonl: CsvLogger, TensorBoardLogger, a program's own. They need a
  /// default_root_dir.
  std::vector<std::shared_ptr<Logger>> loggers;
  std::int64_t log_every_n_steps = 1;  // steps that `loggers` see; metrics.jsonl has all of them
  /// A bar on a terminal, lines elsewhere. Nothing: a bar where stderr is a terminal, else no
  /// progress at all.
  std::optional<bool> enable_progress_bar;
  /// The run directory: metrics, checkpoints, report. Empty: nothing is written. It must not exist
  /// yet, unless `overwrite` is set or fit() resumes it.
  std::filesystem::path default_root_dir;
  bool overwrite = false;
  /// Ctrl-C (SIGINT), SIGTERM and a closed terminal (SIGHUP) end fit() after the present step, with
  /// a checkpoint, as stop() does; Trainer::stop_signal() tells. A second one ends the process.
  /// Only where there is a default_root_dir, and not for a signal that the program handles itself.
  bool save_on_signal = true;

  /// When fit() validates: an integer N, every N steps; a share below 1.0, so many times an epoch;
  /// 1.0, at the end of each epoch.
  EpochPart val_check_interval = 1.0;
  std::int64_t check_val_every_n_epoch = 1;  // of validations at the end of an epoch
  bool val_at_end = false;                   // also after the last step of all
  /// Batches of each validation loader that fit() tries out before it trains, so that a fault in
  /// validation_step() shows at once. -1: all; 0: none. A resumed run tries none.
  std::int64_t num_sanity_val_steps = 2;

  // To try things out. An epoch then has fewer batches, also for schedules.
  EpochPart limit_train_batches = 1.0;
  EpochPart limit_val_batches = 1.0;
  EpochPart limit_test_batches = 1.0;
  EpochPart limit_predict_batches = 1.0;
  /// The first batches of the training data, the same ones in each epoch, and as many of
  /// validation: a model that can't learn these by heart has a fault. 0.0: off.
  EpochPart overfit_batches = 0.0;
  /// So many steps of training, validation, test and prediction, nothing written, no callback that
  /// saves or stops: does the program run? 0: off; true is 1.
  std::int64_t fast_dev_run = 0;
  /// Ends the run at the first loss that is not finite, gradient in a precision without a loss
  /// scale, or weight after an update, and names the operation that made it: AnomalyError, and
  /// anomaly.json in the run directory. Where the step has changed the weights that it was computed
  /// with, the steps since the last checkpoint are taken again first. Each step reads the weights
  /// once more. A resumed run goes on from the newest checkpoint with finite weights.
  bool detect_anomaly = false;

  GradScalerOptions scaler;  // of precisions with loss scaling
  MemoryOptions memory;      // configure_optimizers() gets what concerns the optimizer
  /// Modules that stay in fp32 under a mixed precision: patterns of keep_fp32(). They do as long as
  /// the Trainer lives.
  std::vector<std::string> keep_fp32;
  /// Formats of single linear layers under a mixed precision, "feed_forward=int8"
  /// (train/layer_precision.h); keep_fp32 goes first.
  std::vector<std::string> layer_precision;
  std::uint64_t seed = 0;   // of the random rounding in int8 matmuls
  std::string config_toml;  // what the run's config.toml says; empty: run_config(), these options
};

const std::vector<std::string>& shard_names();

/// `options` with aliases resolved and what fast_dev_run and overfit_batches imply. Throws
/// UserError for values out of range.
TrainerOptions resolved_options(TrainerOptions options);

/// Those of a Trainer that computes as the model's own did: its precision, keep_fp32 and
/// layer_precision. A file of weights alone tells none of them: fp32.
TrainerOptions options_of(const SavedModel& saved);

}  // namespace halftone
