// SPDX-License-Identifier: Apache-2.0
#include "halftone/probe/step_sampler_impl.h"

namespace halftone {

bool StepSampler::wants(std::int64_t step, double seconds) const {
  if (!every_) return false;
  if (*every_ > 0) return (step - 1) % *every_ == 0;
  return !has_watched_ || spent_ + last_ <= kShare * seconds;
}

void StepSampler::spent(double seconds) {
  has_watched_ = true;
  spent_ += seconds;
  last_ = seconds;
}

}  // namespace halftone
