// SPDX-License-Identifier: Apache-2.0
// The gradients of one training step, and how far those of another precision are from them.
#pragma once

#include <torch/types.h>

#include <vector>

#include "halftone/train/mixed_precision.h"
#include "halftone/train/step_replay.h"

namespace halftone {

/// What a step computes.
struct StepGradients {
  double loss = 0;
  std::vector<torch::Tensor> gradients;  // of the network's parameters, without the loss scale;
                                         // undefined where the step gives none
  double seconds = 0;                    // that the step took, forward and backward
};

/// Computes the step in `precision`, to which the network has been converted. Parameters and their
/// .grad are left as they are.
StepGradients step_gradients(const TrainingStep& step, MixedPrecision& precision);

/// The distance of gradients from a reference.
struct GradientError {
  /// The root mean square of the relative errors below, each parameter weighed by its size: AdamW
  /// moves every number by about its learning rate, whatever the norm of its gradient is. Infinite
  /// where gradients or the loss are not finite.
  double total = 0;
  std::vector<double> of_parameters;  // |g - reference| / |reference|, 2-norm; 0 without a gradient
};

/// The gradients that others are compared with.
class GradientReference {
 public:
  explicit GradientReference(StepGradients reference);
  double loss() const { return reference_.loss; }
  double seconds() const { return reference_.seconds; }
  /// `measured`, of the same network, is used up.
  GradientError error_of(StepGradients measured) const;

 private:
  StepGradients reference_;
  std::vector<double> norms_;
};

}  // namespace halftone
