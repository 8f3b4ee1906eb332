// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/optim/optimizer.h>

#include <cstdint>
#include <functional>
#include <vector>

#include "halftone/core/state_dict.h"
#include "halftone/optim/lr_shapes.h"

namespace halftone {

/// The learning rates of an optimizer's groups.
std::vector<double> learning_rates(const torch::optim::Optimizer& optimizer);
/// Sets each group's to rate_of(its base rate); groups beyond `base_rates` keep theirs.
void set_learning_rates(torch::optim::Optimizer& optimizer, const std::vector<double>& base_rates,
                        const std::function<double(double base)>& rate_of);

/// Moves the learning rates of any optimizer along a schedule, in a loop of your own; what LibTorch
/// lacks beside StepLR, and can be saved. Each parameter group follows the schedule from the rate
/// it has when the scheduler is made; the schedule's `lr` does not matter. The optimizer must
/// outlive it.
class LrScheduler {
 public:
  /// Sets the rates of the first of `total_steps` steps, and warns of a warm-up that is not
  /// shorter.
  LrScheduler(torch::optim::Optimizer& optimizer, LrScheduleOptions options,
              std::int64_t total_steps);

  /// Of a schedule that counts: what it counts is how often step() is called, whatever its
  /// interval.
  LrScheduler(torch::optim::Optimizer& optimizer, LrSchedule schedule);

  /// Goes on to the next step's rates. Call it after an update that was made
  /// (StepResult::stepped), so that a skipped one does not use up the schedule.
  void step();
  /// The same of a PlateauLr, which sees the value of a validation.
  void step(double value);
  std::int64_t position() const { return position_; }

  /// The position and the groups' base rates. Loading throws UserError when the groups differ.
  StateDict state_dict() const;
  void load_state_dict(const StateDict& state);

 private:
  void set_rates();

  torch::optim::Optimizer& optimizer_;
  LrSchedule schedule_;
  std::int64_t total_steps_;  // of a schedule over the run
  PlateauState plateau_;
  std::int64_t position_ = 0;
  std::vector<double> base_rates_;
};

}  // namespace halftone
