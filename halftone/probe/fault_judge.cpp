// SPDX-License-Identifier: Apache-2.0
#include <utility>

#include "halftone/probe/fault_judge_impl.h"

namespace halftone {

bool FaultJudge::may_be_the_scale(const NonFiniteLabel& label) {
  return label.origin.kind == NonFiniteOrigin::Kind::kBackward &&
         label.origin.diagnosis.cause == NonFiniteCause::kOverflow;
}

void FaultJudge::decide(Label label) {
  if (!verdict_) verdict_ = std::move(label);
}

void FaultJudge::gradient_is_bad(Label label) {
  if (!gradient_ || label->order < gradient_->order) gradient_ = std::move(label);
}

void FaultJudge::pass_is_over() {
  const Label gradient = std::exchange(gradient_, nullptr);
  if (!gradient) {
    in_a_row_ = 0;
  } else if (!may_be_the_scale(*gradient) || in_a_row_ >= kMostInARow) {
    decide(gradient);
  } else {
    if (!held_) held_ = gradient;
    is_checked_ = false;
  }
}

void FaultJudge::program_checks(const Label& label) {
  if (!held_ || is_checked_ || label->origin.kind != NonFiniteOrigin::Kind::kBackward) return;
  is_checked_ = true;
  if (!excused_) excused_ = held_;
  held_ = nullptr;
  ++excused_passes_;
  ++in_a_row_;
}

void FaultJudge::program_reads(Label label) {
  if (label->is_mask || label->origin.kind != NonFiniteOrigin::Kind::kForward) return;
  decide(std::move(label));
}

void FaultJudge::process_ends() {
  pass_is_over();
  if (held_) decide(held_);
}

}  // namespace halftone
