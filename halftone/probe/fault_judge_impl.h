// SPDX-License-Identifier: Apache-2.0
// A value that is not finite need not be a fault: a mask is made of -inf, and a gradient that
// overflows under a loss scale is data to a GradScaler. The judge hears what becomes of labels.
#pragma once

#include <cstdint>
#include <memory>

#include "halftone/inspect/non_finite_watch_impl.h"

namespace halftone {

/// A fault is what makes the loss, a weight or what the program reads of a loss non-finite; or a
/// gradient, unless it overflowed and the program is seen to look for that. Not thread-safe.
class FaultJudge {
 public:
  using Label = std::shared_ptr<const NonFiniteLabel>;

  /// A backward pass begins at a loss that holds it.
  void loss_is_bad(Label label) { decide(std::move(label)); }
  /// A gradient of a leaf holds it.
  void gradient_is_bad(Label label);
  /// The pass is over which those gradients are from.
  void pass_is_over();
  /// A GradScaler, or the program itself, looks whether gradients are finite: what it finds in them
  /// is no surprise.
  void program_checks(const Label& label);
  /// A parameter holds it: no longer a matter of gradients.
  void weight_is_bad(Label label) { decide(std::move(label)); }
  /// The program reads a number that holds it.
  void program_reads(Label label);
  /// Where there is no backward pass, what is left of the program's results holds it.
  void result_is_bad(Label label) { decide(std::move(label)); }
  /// What nobody has looked at is a fault.
  void process_ends();

  /// Null as long as there is none.
  const Label& verdict() const { return verdict_; }
  /// Overflows that the program dealt with: backward passes, and the first one's label.
  std::int64_t excused_passes() const { return excused_passes_; }
  const Label& excused() const { return excused_; }

 private:
  /// So many overflows in a row are not the scale's: GradScaler has halved it below 1 by then.
  static constexpr std::int64_t kMostInARow = 25;

  void decide(Label label);
  static bool may_be_the_scale(const NonFiniteLabel& label);

  Label verdict_;
  Label gradient_;  // the first one of the pass
  Label held_;      // an overflow that nobody has looked at yet
  Label excused_;
  bool is_checked_ = false;  // the pass that held_ is from
  std::int64_t excused_passes_ = 0;
  std::int64_t in_a_row_ = 0;
};

}  // namespace halftone
