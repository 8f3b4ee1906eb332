// SPDX-License-Identifier: Apache-2.0
// A training step in whole precisions, against 32-true.
#pragma once

#include <torch/types.h>

#include <memory>

#include "halftone/diagnostics/tune/step_gradients.h"
#include "halftone/train/mixed_precision.h"
#include "halftone/train/step_replay.h"

namespace halftone {

/// `policy` for one step of a network in fp32: with a loss scale at which its gradients are finite,
/// if the policy has one and there is one from 65536 down to 1.
std::unique_ptr<MixedPrecision> precision_for_step(const TrainingStep& step,
                                                   const PrecisionPolicy& policy,
                                                   torch::Device device, bool recompute_blocks);

/// The step in 32-true.
GradientReference exact_gradients(const TrainingStep& step, torch::Device device,
                                  bool recompute_blocks);

/// How far the gradients of one optimizer step are from those of all data, as a relative error in
/// the measure of GradientError: the distance of the gradients of two batches has twice the
/// variance of one. An optimizer step averages `micro_batches`.
double sampling_noise(const GradientReference& exact, const TrainingStep& other,
                      torch::Device device, std::int64_t micro_batches);

}  // namespace halftone
