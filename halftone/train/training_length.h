// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>

#include "halftone/optim/lr_shapes.h"

namespace halftone {

/// The limits of a run. Without any it lasts one epoch. A limit of steps or time alone repeats the
/// data.
struct RunLimits {
  std::optional<std::int64_t> max_steps;  // optimizer steps, skipped ones included
  std::optional<std::int64_t> max_epochs;
  std::optional<double> max_time;  // seconds of training, over all parts of a resumed run
};

/// How far a run is. Part of every checkpoint.
struct RunCounters {
  std::int64_t step = 0;        // optimizer steps, skipped ones included
  std::int64_t micro_step = 0;  // batches seen
  std::int64_t epochs = 0;      // completed
  std::int64_t schedule_step =
      0;                     // micro-steps of the updates that were applied, see TrainingLength
  std::int64_t updates = 0;  // those that were applied
  std::int64_t tokens = 0;   // predicted tokens seen
  double seconds = 0;        // spent training
};

/// Whether rates along `schedule` depend on how many batches an epoch of the run has.
bool needs_epoch_length(const RunLimits& limits, const LrSchedule& schedule);

/// When a run ends, and the learning rate of the next update.
class TrainingLength {
 public:
  /// REQUIRES accumulate > 0 and, where they are given, positive limits and batches_per_epoch. Not
  /// every loader tells how many batches an epoch has.
  TrainingLength(const RunLimits& limits, std::optional<std::int64_t> batches_per_epoch,
                 std::int64_t accumulate);

  bool finished(const RunCounters& counters) const;

  /// Rate of the next update, of `group` batches, for parameters that were made with the rate
  /// `base`. A schedule over the run is taken at the update's last micro-step of all those of the
  /// run, whichever limit is the first to end it; or at the share of the time that has gone when
  /// time is the only limit. Other schedules count applied updates, completed epochs or, of a
  /// plateau, `reductions`. A skipped update does not move a schedule. Throws UserError for a
  /// schedule that needs the length of an epoch and does not have it.
  double learning_rate(const LrSchedule& schedule, double base, const RunCounters& counters,
                       std::int64_t group, std::int64_t reductions = 0) const;
  /// The same of a schedule over the run that has a rate of its own.
  double learning_rate(const LrScheduleOptions& schedule, const RunCounters& counters,
                       std::int64_t group) const {
    return learning_rate(LrSchedule(schedule), schedule.lr, counters, group);
  }
  /// What an applied update of `group` batches adds to RunCounters::schedule_step: its batches, or,
  /// where the length of an epoch is not known, those of a whole update.
  std::int64_t schedule_steps(std::int64_t group) const;

  /// Share of the run that is done, 0..1.
  double progress(const RunCounters& counters) const;

  /// Optimizer steps of the whole run; nothing when only time limits it, or epochs of a length that
  /// is not known.
  std::optional<std::int64_t> total_steps() const;
  const std::optional<std::int64_t>& batches_per_epoch() const { return batches_per_epoch_; }

 private:
  double rate_over_run(LrScheduleOptions options, double warmup, const RunCounters& counters,
                       std::int64_t group) const;
  double rate_over_epochs(LrScheduleOptions options, const RunCounters& counters) const;
  double micro_steps(double steps) const;
  double total_micro_steps() const;

  RunLimits limits_;
  std::optional<std::int64_t> batches_per_epoch_;
  std::int64_t accumulate_;
};

}  // namespace halftone
