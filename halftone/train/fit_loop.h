// SPDX-License-Identifier: Apache-2.0
// The training loop: there is one, for every model. MiniMind's recipe runs through it with the
// original's defects mended (docs/numerics.md lists them).
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "halftone/core/process_group.h"
#include "halftone/core/state_dict.h"
#include "halftone/inspect/non_finite_finder.h"
#include "halftone/run/checkpoint.h"
#include "halftone/run/step_metrics.h"
#include "halftone/train/anomaly.h"
#include "halftone/train/data_parallel.h"
#include "halftone/train/manual_optimization.h"
#include "halftone/train/mixed_precision.h"
#include "halftone/train/step_hooks.h"
#include "halftone/train/step_replay.h"
#include "halftone/train/training_length.h"
#include "halftone/train/training_task.h"

namespace halftone {

struct FitLoopOptions {
  RunLimits limits;
  std::int64_t accumulate = 1;  // micro-batches of one optimizer step
  LossAverage loss_average = LossAverage::kTokens;
  GradientClip clip;
  std::uint64_t seed = 0;  // of the random rounding in int8 matmuls
  /// A loss that is not finite ends the run, and so do a gradient where there is no loss scale and
  /// an update that makes a weight so. Each step reads the weights once more.
  bool detect_anomaly = false;
  /// The processes that train together, each with its share of the data; nullptr: this one alone.
  std::shared_ptr<ProcessGroup> processes;
  bool shards_states = false;                               // the optimizers', over those processes
  bool shards_gradients = false;                            // likewise
  bool shards_weights = false;                              // likewise
  GradientTransport transport = GradientTransport::kExact;  // of gradients between them
  /// The gradients of micro-batches are added up as a tree (optim/gradient_tree.h).
  bool tree_sum = false;
};

/// Trains one optimizer step at a time. Everything that decides the next step (weights, moments,
/// scale, random state, data position, counters) is in checkpoint(): a loop that loads it goes on
/// with the same bits.
class FitLoop {
 public:
  /// Converts the module to the precision's dtype, then asks it for its optimizers. Both arguments
  /// must outlive the loop.
  FitLoop(TrainingTask& task, MixedPrecision& precision, const FitLoopOptions& options);
  ~FitLoop() = default;
  FitLoop(const FitLoop&) = delete;
  FitLoop& operator=(const FitLoop&) = delete;

  /// One update from `accumulate` micro-batches of each process: losses under autocast, scaled
  /// backward, then unscale, clip and step. The loss is the mean over what the batches'
  /// loss_weight() counts, however it is split. Where gradients are released, the micro-batches are
  /// one pass. Waits for the device once, for the returned numbers. A module that steps its
  /// optimizers itself has one batch a step. `hooks` get the numbers before AnomalyError says that
  /// no update is possible any more, or what detect_anomaly has found.
  StepMetrics step(StepHooks& hooks);
  StepMetrics step() {
    StepHooks none;
    return step(none);
  }

  /// As Trainer::pass_over_training_data().
  void pass_over_data();

  /// Warns of a warm-up that the run doesn't end: of the steps that are planned when it begins, of
  /// those that were made when time has ended it.
  void warn_of_warmup() const;

  /// Lets schedules that wait for a plateau see what a validation has logged. Throws UserError
  /// where it lacks the value that they look at.
  void observe_validation(const std::map<std::string, double>& values);

  bool finished() const { return length_.finished(counters_); }
  double progress() const;
  const TrainingLength& length() const { return length_; }
  const RunCounters& counters() const { return counters_; }
  /// Whether the next step is the first one of an epoch.
  bool at_epoch_start() const { return task_.batch_index() == 0; }
  const std::vector<OptimizerSetup>& optimizers() const { return setups_; }
  /// Where processes keep a part of the weights each; else null.
  std::shared_ptr<ShardedWeights> sharded_weights() const {
    return parallel_ ? parallel_->weights() : nullptr;
  }
  /// After the last step: gives each process all weights.
  void complete_weights();
  /// Of the last step that was computed; without micro-batches before the first one.
  const StepReplay& last_step() const { return last_step_; }

  Checkpoint checkpoint() const;
  /// Throws UserError when the checkpoint is of another model, data set or recipe.
  void load_checkpoint(const Checkpoint& checkpoint);

  /// For a step that is taken again: how long training had taken before it, which schedules over
  /// time see.
  void set_seconds(double seconds) { counters_.seconds = seconds; }
  /// Computes the next step up to its update, finds what `anomaly` comes from, and returns it with
  /// that. The weights stay; the data's position and the generators move on, so that no step can
  /// follow before a load_checkpoint().
  Anomaly search_next_step(Anomaly anomaly, StepHooks& hooks);

 private:
  /// What a step came to.
  struct Update {
    torch::Tensor loss;  // on the host; undefined: none is known
    StepResult result;
    bool applied = true;          // an optimizer has stepped
    std::optional<double> scale;  // that it used
    ScalerVerdict verdict;
  };

  torch::nn::Module& network() const { return task_.module().network(); }
  std::int64_t begin_step(StepHooks& hooks);
  std::optional<Anomaly> anomaly_in(const Update& update) const;
  std::optional<NonFiniteOrigin> bad_weights() const;
  void explain(const Update& update, Anomaly& anomaly);
  void describe_update(Anomaly& anomaly, const char* when, double gradient_factor) const;
  double gradient_factor(const Update& update) const;
  void set_learning_rates(std::int64_t group);
  std::int64_t processes() const;
  /// What the schedule counts for so many micro-batches of each process.
  std::int64_t in_schedule(std::int64_t batches) const;
  void in_pass(bool computes, const std::function<void()>& compute);
  bool sends_behind(bool is_last) const;
  void make_tree();
  void check_release() const;
  void check_manual() const;
  void check_processes() const;
  void check_sharded_gradients() const;
  void share_accumulation(const StateDict& trainer);
  torch::Tensor loss_of(std::int64_t i);
  torch::Tensor accumulate_gradients(std::int64_t group, StepHooks& hooks);
  Update update(std::int64_t group, StepHooks& hooks);
  Update released_update(StepHooks& hooks);
  Update manual_update(StepHooks& hooks);
  Update finished_update(const torch::Tensor& loss, const StepResult& result);
  void zero_gradients(StepHooks& hooks);
  torch::Tensor start_reading(const torch::Tensor& loss);
  void finish_metrics(StepMetrics& metrics, double seconds);
  void note_memory_kinds(StepMetrics& metrics) const;

  TrainingTask& task_;
  MixedPrecision& precision_;
  FitLoopOptions options_;
  std::int64_t accumulate_;          // micro-batches of a step in this process
  std::int64_t schedule_processes_;  // whose micro-batches the schedule counts
  std::vector<OptimizerSetup> setups_;
  Optimizers optimizers_;
  std::optional<GradientTree> tree_;             // of micro-batches' gradients, if asked for
  std::optional<DataParallel> parallel_;         // over the processes, if there are several
  std::vector<std::vector<double>> base_rates_;  // of each optimizer's groups
  std::unique_ptr<ManualOptimization> manual_;   // of a module that steps them itself
  std::vector<PlateauState> plateaus_;           // of each optimizer's schedule
  TrainingLength length_;
  RunCounters counters_;
  StepReplay last_step_;
  bool in_step_ = false;
  /// With detect_anomaly: whether all weights were finite before the step.
  bool weights_were_finite_ = false;
};

}  // namespace halftone
