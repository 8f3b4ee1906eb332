// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>

#include "halftone/optim/lr_schedule.h"

namespace halftone {

/// What may end a run. Without any: one epoch. A step limit or a time limit alone repeats the data.
struct RunLimits {
  std::optional<std::int64_t> max_steps;  // optimizer steps, skipped ones included
  std::optional<std::int64_t> max_epochs;
  std::optional<double> max_time;  // seconds of training, over all parts of a resumed run
};

/// How far a run is. Part of every checkpoint.
struct RunCounters {
  std::int64_t step = 0;           // optimizer steps, skipped ones included
  std::int64_t micro_step = 0;     // batches seen; the position in the data
  std::int64_t schedule_step = 0;  // micro-steps of the updates that were applied
  std::int64_t tokens = 0;         // predicted tokens seen
  double seconds = 0;              // spent training
};

/// When a run ends, how many batches the next update takes, and its learning rate.
class RunLength {
 public:
  /// REQUIRES batches_per_epoch > 0, accumulate > 0 and positive limits.
  RunLength(const RunLimits& limits, std::int64_t batches_per_epoch, std::int64_t accumulate);

  bool finished(const RunCounters& counters) const;

  /// Batches of the next update: `accumulate`, or what is left of the epoch. MiniMind drops the
  /// rest of an epoch into the next one; here it makes an update of its own.
  std::int64_t next_group(const RunCounters& counters) const;

  /// Rate of the next update, of `group` batches: the schedule at the update's last micro-step, or
  /// at the share of the time that has gone when time is the only limit. A skipped update does not
  /// move the schedule. `warmup` counts optimizer steps.
  double learning_rate(const LrScheduleOptions& schedule, const RunCounters& counters,
                       std::int64_t group) const;

  /// Share of the run that is done, 0..1.
  double progress(const RunCounters& counters) const;

  /// Optimizer steps of the whole run; nothing when only time limits it.
  std::optional<std::int64_t> total_steps() const;
  std::int64_t epoch(const RunCounters& counters) const;  // from 1

 private:
  RunLimits limits_;
  std::int64_t batches_per_epoch_;
  std::int64_t accumulate_;
};

}  // namespace halftone
