// SPDX-License-Identifier: Apache-2.0
#include "halftone/train/training_length.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "halftone/core/error.h"

namespace halftone {

bool needs_epoch_length(const RunLimits& limits, const LrSchedule& schedule) {
  const LrScheduleOptions* const over_run = schedule.over_run();
  if (over_run == nullptr || schedule.interval() == LrInterval::kEpoch) return false;
  const bool constant = over_run->kind == Schedule::kConstant && schedule.warmup() == 0;
  const bool one_epoch = !limits.max_steps && !limits.max_time;
  return !constant && (limits.max_epochs || one_epoch);
}

TrainingLength::TrainingLength(const RunLimits& limits,
                               std::optional<std::int64_t> batches_per_epoch,
                               std::int64_t accumulate)
    : limits_(limits), batches_per_epoch_(batches_per_epoch), accumulate_(accumulate) {
  HALFTONE_CHECK(batches_per_epoch.value_or(1) > 0 && accumulate > 0,
                 "[training_length] expected at least one batch per epoch and per update, got ",
                 batches_per_epoch.value_or(1), " and ", accumulate);
  if (!limits_.max_steps && !limits_.max_epochs && !limits_.max_time) limits_.max_epochs = 1;
}

bool TrainingLength::finished(const RunCounters& counters) const {
  if (limits_.max_steps && counters.step >= *limits_.max_steps) return true;
  if (limits_.max_epochs && counters.epochs >= *limits_.max_epochs) return true;
  return limits_.max_time && counters.seconds >= *limits_.max_time;
}

double TrainingLength::learning_rate(const LrSchedule& schedule, double base,
                                     const RunCounters& counters, std::int64_t group,
                                     std::int64_t reductions) const {
  const double warmup = schedule.warmup();
  if (const LrScheduleOptions* const over_run = schedule.over_run()) {
    LrScheduleOptions options = *over_run;
    options.lr = base;
    if (options.kind == Schedule::kConstant && warmup == 0) return base;
    if (schedule.interval() == LrInterval::kEpoch)
      return warmup_factor(warmup, counters.updates) * rate_over_epochs(options, counters);
    return rate_over_run(options, warmup, counters, group);
  }
  std::int64_t position =
      schedule.interval() == LrInterval::kEpoch ? counters.epochs : counters.updates;
  if (schedule.plateau() != nullptr) position = reductions;
  return warmup_factor(warmup, counters.updates) * rate_at(schedule.shape(), base, position);
}

double TrainingLength::rate_over_run(LrScheduleOptions options, double warmup,
                                     const RunCounters& counters, std::int64_t group) const {
  if (!limits_.max_steps && !limits_.max_epochs)  // warmup counts steps, the position is a time
    return warmup_factor(warmup, counters.step) *
           halftone::learning_rate(options, counters.seconds, *limits_.max_time);
  options.warmup = micro_steps(warmup);
  const std::int64_t last = counters.schedule_step + schedule_steps(group) - 1;
  return halftone::learning_rate(options, static_cast<double>(last), total_micro_steps());
}

double TrainingLength::rate_over_epochs(LrScheduleOptions options,
                                        const RunCounters& counters) const {
  if (!limits_.max_epochs)
    throw UserError(
        "a learning-rate schedule over the run that moves by epochs needs to know how many there "
        "are: set max_epochs, or let it move by steps");
  return halftone::learning_rate(options, static_cast<double>(counters.epochs),
                                 static_cast<double>(*limits_.max_epochs));
}

std::int64_t TrainingLength::schedule_steps(std::int64_t group) const {
  return batches_per_epoch_ ? group : accumulate_;
}

// Batches of the run's first `steps` updates: the last update of an epoch takes what is left of it.
double TrainingLength::micro_steps(double steps) const {
  const auto whole_update = static_cast<double>(accumulate_);
  if (!batches_per_epoch_) return steps * whole_update;
  const auto epoch = static_cast<double>(*batches_per_epoch_);
  const double updates_per_epoch = std::ceil(epoch / whole_update);
  const double epochs = std::floor(steps / updates_per_epoch);
  const double left = steps - epochs * updates_per_epoch;
  return epochs * epoch + std::min(left * whole_update, epoch);
}

double TrainingLength::total_micro_steps() const {
  if (limits_.max_epochs && !batches_per_epoch_)
    throw UserError(
        "a learning-rate schedule over epochs needs to know how many batches an epoch has, and "
        "this loader does not tell: set max_steps instead of max_epochs, or give the loader a "
        "member batches_per_epoch()");
  double total = std::numeric_limits<double>::infinity();
  if (limits_.max_steps) total = micro_steps(static_cast<double>(*limits_.max_steps));
  if (limits_.max_epochs)
    total = std::min(
        total, static_cast<double>(*limits_.max_epochs) * static_cast<double>(*batches_per_epoch_));
  return total;
}

double TrainingLength::progress(const RunCounters& counters) const {
  double share = 0;
  const auto consider = [&](double done, double whole) { share = std::max(share, done / whole); };
  if (limits_.max_time) consider(counters.seconds, *limits_.max_time);
  if (limits_.max_steps)
    consider(static_cast<double>(counters.step), static_cast<double>(*limits_.max_steps));
  if (limits_.max_epochs && batches_per_epoch_)
    consider(static_cast<double>(counters.micro_step),
             static_cast<double>(*limits_.max_epochs * *batches_per_epoch_));
  else if (limits_.max_epochs)
    consider(static_cast<double>(counters.epochs), static_cast<double>(*limits_.max_epochs));
  return std::min(share, 1.0);
}

std::optional<std::int64_t> TrainingLength::total_steps() const {
  std::optional<std::int64_t> total = limits_.max_steps;
  if (!limits_.max_epochs || !batches_per_epoch_) return total;
  const std::int64_t per_epoch = (*batches_per_epoch_ + accumulate_ - 1) / accumulate_;
  total =
      std::min(total.value_or(*limits_.max_epochs * per_epoch), *limits_.max_epochs * per_epoch);
  return total;
}

}  // namespace halftone
