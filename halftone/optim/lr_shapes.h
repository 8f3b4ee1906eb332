// SPDX-License-Identifier: Apache-2.0
// Learning rates that count updates or epochs, as the classes of torch.optim.lr_scheduler with like
// names compute them; k is the position, counted from 0.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "halftone/core/state_dict.h"
#include "halftone/optim/lr_schedule.h"

namespace halftone {

/// lr * gamma ^ floor(k / step_size).
struct StepLr {
  std::int64_t step_size = 1;
  double gamma = 0.1;
};

/// lr * gamma ^ (number of milestones <= k).
struct MultiStepLr {
  std::vector<std::int64_t> milestones;
  double gamma = 0.1;
};

/// lr * gamma ^ k.
struct ExponentialLr {
  double gamma = 0.9;
};

/// lr * (1 - min(k, total_iters) / total_iters) ^ power.
struct PolynomialLr {
  std::int64_t total_iters = 5;
  double power = 1.0;
};

/// From lr to eta_min in t_max, along a half cosine, and back in the next t_max.
struct CosineAnnealingLr {
  std::int64_t t_max = 1;
  double eta_min = 0.0;
};

/// From lr to eta_min in t_0, then from lr again in t_0 * t_mult, and so on (SGDR, Loshchilov and
/// Hutter 2017).
struct CosineRestartsLr {
  std::int64_t t_0 = 1;
  std::int64_t t_mult = 1;
  double eta_min = 0.0;
};

/// lr * factor(k). The function is the program's: a resumed run must have the same.
struct LambdaLr {
  std::function<double(std::int64_t position)> factor;
};

/// lr * factor each time that more than `patience` validations in a row were no better, as
/// ReduceLROnPlateau does. Its state is part of a checkpoint.
struct PlateauLr {
  std::string monitor = "val_loss";  // a value that validation logs
  bool maximize = false;             // whether more of it is better
  double factor = 0.1;
  std::int64_t patience = 10;
  double threshold = 1e-4;         // by how much better counts
  bool relative_threshold = true;  // as a share of the best
  std::int64_t cooldown = 0;       // validations after a reduction that do not count
  double min_lr = 0.0;             // of each group
  double eps = 1e-8;               // a smaller change of the rate is not made
};

using LrShape = std::variant<LrScheduleOptions, StepLr, MultiStepLr, ExponentialLr, PolynomialLr,
                             CosineAnnealingLr, CosineRestartsLr, LambdaLr, PlateauLr>;

enum class LrInterval { kStep, kEpoch };

struct LrTiming {
  LrInterval interval = LrInterval::kStep;  // what the position counts: updates applied, or epochs
  double warmup = 0.0;                      // updates in which the rate rises to the shape's
};

/// A learning rate over a run: a shape and what it counts.
///   halftone::LrSchedule(halftone::StepLr{.step_size = 30}, {.interval = LrInterval::kEpoch})
class LrSchedule {
 public:
  /// Throws UserError for a shape with values out of range.
  template <class Shape>
  requires std::is_convertible_v<Shape, LrShape> LrSchedule(Shape shape, LrTiming timing = {})
      : LrSchedule(LrShape(std::move(shape)), timing, 0) {}

  const LrShape& shape() const { return shape_; }
  LrInterval interval() const { return timing_.interval; }
  double warmup() const { return timing_.warmup; }

  /// Those over the share of the run that has passed; else nullptr.
  const LrScheduleOptions* over_run() const { return std::get_if<LrScheduleOptions>(&shape_); }
  const PlateauLr* plateau() const { return std::get_if<PlateauLr>(&shape_); }

 private:
  LrSchedule(LrShape shape, LrTiming timing, int /*checked*/);

  LrShape shape_;
  LrTiming timing_;
};

/// The rate of a group that was made with `base`, at position `k`, without warm-up. Of a plateau, k
/// counts the reductions. REQUIRES another shape than LrScheduleOptions.
double rate_at(const LrShape& shape, double base, std::int64_t k);

/// The factor of the update that `updates` others came before: it rises to 1.
double warmup_factor(double warmup, std::int64_t updates);

/// What ReduceLROnPlateau remembers.
struct PlateauState {
  double best = 0.0;
  bool has_best = false;
  std::int64_t bad = 0;  // validations in a row
  std::int64_t cooldown = 0;
  std::int64_t reductions = 0;

  /// Takes in the value of a validation. A nan is never better.
  void observe(const PlateauLr& plateau, double value);

  StateDict state_dict() const;
  void load_state_dict(const StateDict& state);
};

}  // namespace halftone
