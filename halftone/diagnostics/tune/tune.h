// SPDX-License-Identifier: Apache-2.0
// The precision of each linear layer of a training step, chosen by measurement: the error that a
// format makes in a layer, and the time that it saves there.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "halftone/kernels/gemm/compute_type.h"
#include "halftone/train/step_replay.h"

namespace halftone {

struct TuneOptions {
  std::string precision = "bf16-mixed";  // a mixed one: the reference, whose layers are lowered
  torch::Device device = torch::kCPU;
  bool recompute_blocks = false;  // as the run does
  /// The largest relative error of the gradients (GradientError::total) against 32-true. Not given:
  /// kNoiseShare of the sampling noise, so that rounding adds less than a hundredth to the variance
  /// that the gradient has as it is the gradient of one batch.
  std::optional<double> error;
  double loss_increase = 0.005;    // the largest change of the step's loss
  double max_seconds = 30;         // that the errors of single layers may take to be measured
  std::int64_t micro_batches = 1;  // of an optimizer step: its gradient has less noise than one's
  /// Between the measurements; may be empty.
  std::function<void(const std::string& stage, double share)> progress;

  static constexpr double kNoiseShare = 0.1;
};

/// A step in one precision, whole.
struct MeasuredStep {
  std::string name;        // "32-true", "bf16-mixed", "all in int8", "the choice"
  double seconds = 0;      // forward and backward pass
  double error = 0;        // of the gradients, against 32-true
  double loss_change = 0;  // against 32-true
};

/// Layers in one format, all others in the reference's.
struct FormatMeasurement {
  ComputeType format = ComputeType::kFloat32;
  double seconds = 0;      // of the layers' matmuls
  double error = 0;        // of the whole step's gradients, against 32-true
  double loss_change = 0;  // against the reference
};

/// Layers whose format is chosen together: those that are multiplied as one, or, where there was no
/// time for each, all whose paths differ in numbers only.
struct TunedLayers {
  std::string name;                               // "layers.0.attention.wq+wk+wv"
  std::vector<std::string> modules;               // paths
  double seconds = 0;                             // in the reference's format
  std::vector<FormatMeasurement> formats;         // that are faster; empty: none is, or see below
  bool is_measured = true;                        // false: time was up, so they stay as they are
  ComputeType reference = ComputeType::kFloat32;  // their format in the reference
  ComputeType choice = ComputeType::kFloat32;
};

/// A point of the line of best choices: predicted, not measured.
struct TunePoint {
  double error_bound = 0;
  double seconds = 0;
  double error = 0;
  double loss_change = 0;                 // root of the sum of squares
  std::map<ComputeType, int> modules_in;  // layers by format
};

struct TuneResult {
  std::string precision;      // the reference
  double sampling_noise = 0;  // relative error of one step's gradients, as those of all data
  double error_bound = 0;     // at least the reference's own error
  double loss_bound = 0;
  MeasuredStep exact, reference;
  std::vector<MeasuredStep> corners;  // all layers in one format
  std::vector<TunedLayers> layers;
  std::vector<TunePoint> line;                 // the reference, then from its error to no bound
  TunePoint predicted;                         // the choice
  MeasuredStep chosen;                         // the choice, measured: the joint check
  int back_offs = 0;                           // times that the joint check refused a choice
  std::string verdict;                         // a sentence: what was chosen, or why nothing was
  std::map<std::string, ComputeType> formats;  // of layers that are not the reference's, by path
  std::vector<std::string> layer_precision;    // the same as texts (train/layer_precision.h)
};

/// Measures each layer of `step` in each format that is faster there than the reference's, solves
/// for the fastest choice within both bounds, and checks it as a whole.
///
/// Errors of layers are taken to be independent: what a format adds to the square of the gradients'
/// error, and to that of the loss, adds up over the layers, as in AutoQuantize (NVIDIA ModelOpt)
/// and SNIP (Pan et al., ASPLOS 2026, arXiv 2602.01410). The sum is minimised as a knapsack
/// (format_solver.h). A layer's error depends on the formats before it, though (MixQuant), so the
/// step runs with the whole choice, and bounds are tightened until the measured errors hold.
///
/// `other`: the same network on another batch, which tells the sampling noise. The network is in
/// fp32, and is left as it was. Throws UserError for a precision that is not mixed.
TuneResult tune_layers(const TrainingStep& step, const TrainingStep& other,
                       const TuneOptions& options);

}  // namespace halftone
