// SPDX-License-Identifier: Apache-2.0
// Learning rates as pure functions of how far the run is: nothing to save, nothing to resume.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace halftone {

/// With p the share of the run that has passed:
///   minimind  lr / 10 + lr / 2 (1 + cos(pi p))   from 1.1 lr to 0.1 lr, as MiniMind's V2 does
///   cosine    from lr to lr / 10 along a half cosine
///   linear    from lr to 0
///   constant  lr
///   one-cycle from lr / 25 up to lr in the first three tenths, then down to lr / 250,000, along
///   half
///             cosines, as torch.optim.lr_scheduler.OneCycleLR does without momentum
///             (Smith and Topin 2018)
///   wsd       lr, then in the last `decay_share` of the run linearly to 0 (warm-up, stable, decay:
///   Hu et al. 2024, with the decay of Haegele et al. 2024)
enum class Schedule { kMinimind, kCosine, kLinear, kConstant, kOneCycle, kWsd };

struct LrScheduleOptions {
  Schedule kind = Schedule::kMinimind;
  double lr = 5e-4;
  double warmup = 0.0;  // micro-steps (or share of the time): --warmup counts optimizer steps, so
                        // the caller multiplies by the accumulation
  double decay_share = 0.2;  // of wsd
};

/// The rate at `position` of `total` micro-steps (or seconds), position counted from 0. While
/// position < warmup it is the schedule's own value times (position + 1) / (warmup + 1); the
/// schedule itself is not shifted. Positions beyond the end get the last value.
/// Throws c10::Error unless total > 0, position >= 0 and warmup >= 0.
double learning_rate(const LrScheduleOptions& options, double position, double total);

/// Warns where a run of `steps` updates ends before its `warmup` does.
void warn_of_long_warmup(double warmup, std::int64_t steps);

const std::vector<std::string>& schedule_names();
/// Throws UserError, which lists the names, for an unknown one.
Schedule parse_schedule(std::string_view name);
std::string_view schedule_name(Schedule schedule);

}  // namespace halftone
