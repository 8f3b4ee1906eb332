// SPDX-License-Identifier: Apache-2.0
// The precision of a whole run, chosen by measurement: what precision = "auto" does.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "halftone/train/step_replay.h"

namespace halftone {

struct PrecisionChoiceOptions {
  std::vector<std::string> precisions;  // of fp32 weights, 32-true among them, the finest first
  torch::Device device = torch::kCPU;
  bool recompute_blocks = false;
  std::optional<double> error;   // bound of the gradients' error; not given: as TuneOptions::error
  double loss_increase = 0.005;  // as TuneOptions has it
  std::int64_t micro_batches = 1;  // of an optimizer step
  /// Before each precision; may be empty.
  std::function<void(const std::string& stage, double share)> progress;
};

struct PrecisionTrial {
  std::string precision;
  double seconds = 0;  // of the step's forward and backward pass: the fastest of several
  double error = 0;    // of the gradients, against 32-true
  double loss_change = 0;
  bool passes = false;  // its error check
};

struct PrecisionChoice {
  std::string precision;
  std::string reason;  // a sentence with its figures and those of the runner-up
  double sampling_noise = 0;
  double error_bound = 0;
  std::vector<PrecisionTrial> trials;
};

/// Computes `step` in each precision, in turns, and takes the fastest of those whose gradients and
/// loss stay within the bounds; the finest of those that are within a twentieth of that time, since
/// coarser numbers must buy something. `other`: the same network on another batch. The network is
/// in fp32, and is left as it was.
PrecisionChoice choose_precision(const TrainingStep& step, const TrainingStep& other,
                                 const PrecisionChoiceOptions& options);

}  // namespace halftone
