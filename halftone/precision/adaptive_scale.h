// SPDX-License-Identifier: Apache-2.0
// A loss scale that is measured instead of guessed: the largest power of two that leaves the
// gradients a margin below fp16's overflow. GradScaler with .adaptive = true uses it.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <optional>

#include "halftone/core/state_dict.h"

namespace halftone {

/// The widest margin below overflow, in powers of two: all of fp16's range.
inline constexpr std::int64_t kWidestMargin = 40;

struct AdaptiveScaleOptions {
  std::int64_t interval = 16;  // updates from one measurement to the next
  std::int64_t margin = 4;     // powers of two kept free below overflow
  double min_scale = 1.0;
  double max_scale = 16777216.0;
};

/// One measurement of the gradients. Shares count non-zero values only: a value that was already
/// flushed looks like a true zero.
struct ScaleMeasurement {
  std::int64_t update = 0;      // the update it was made for, counted from 1
  double scale = 1.0;           // the gradients carried it
  double flushed_share = 0.0;   // of values below 2^-25 with it: zero in fp16
  double unscaled_share = 0.0;  // of values that scale 1 would have flushed
  double head_room = 0.0;   // doublings that the largest value can take; infinite if all are zero
  std::int64_t margin = 0;  // powers of two that the choice keeps free
  double chosen_scale = 1.0;
  bool finite = true;  // false: a gradient was inf or nan, so nothing was measured
};

/// The rule. After each measurement of finite gradients the scale becomes 2^(15 - margin) over the
/// power of two of the largest gradient, within min_scale..max_scale; twice what it was if all of
/// them are zero, since fp16 may have made them so. An overflow lowers the scale by the backoff
/// factor and widens the margin so far that the next measurement does not climb back; every growth
/// interval without overflow narrows it by one power of two. Nothing but a measurement of finite
/// gradients raises the scale: nan and inf never do. The numbers stay on the device.
class AdaptiveScale {
 public:
  explicit AdaptiveScale(const AdaptiveScaleOptions& options);

  /// Whether this iteration's gradients are to be counted.
  bool due() const { return updates_ % options_.interval == 0; }
  /// Counts a gradient that still carries the scale: dense, of a floating dtype.
  void count(const torch::Tensor& scaled_gradient);

  /// Forgets what this iteration has counted.
  void discard() { counts_ = torch::Tensor(); }

  /// The outcome of an iteration, as bool scalars on the scale's device.
  struct Outcome {
    torch::Tensor overflow;  // a gradient was not finite
    torch::Tensor lower;     // so the scale becomes `lowered`
    torch::Tensor lowered;   // fp32 scalar
    torch::Tensor relax;     // a growth interval has passed without overflow
  };
  /// Ends the iteration; the scale of the next one, an fp32 scalar. Nothing waits.
  torch::Tensor next(const torch::Tensor& scale, const Outcome& outcome);

  /// The latest measurement; nothing before the first. Waits for the device.
  std::optional<ScaleMeasurement> last_measurement() const;

  void set_limits(double min_scale, double max_scale);

  /// _adaptive_updates, _adaptive_margin and, once known, _adaptive_top. Waits for the device.
  StateDict state_dict() const;
  /// Throws UserError for numbers that no scaler saves; a state without them starts anew.
  void load_state_dict(const StateDict& state);

 private:
  // As it is on the device, read by last_measurement() only.
  struct Measured {
    std::int64_t update = 0;
    torch::Tensor counts, scale, margin, chosen, finite;
  };
  void move_margin(const Outcome& outcome);
  torch::Tensor measured_scale(const torch::Tensor& scale, const Outcome& outcome);

  AdaptiveScaleOptions options_;
  std::int64_t updates_ = 0;
  torch::Tensor margin_;  // int64 scalar
  torch::Tensor top_;     // int64 scalar: exponent of the largest gradient without the scale
  torch::Tensor counts_;  // exponent_histogram of this iteration; undefined: nothing counted yet
  std::optional<Measured> last_;
};

}  // namespace halftone
