// SPDX-License-Identifier: Apache-2.0
// What a linear layer costs in each format, measured on its own shapes.
#pragma once

#include <map>
#include <vector>

#include "halftone/diagnostics/tune/tunable_layers.h"
#include "halftone/kernels/gemm/compute_type.h"
#include "halftone/train/mixed_precision.h"

namespace halftone {

/// Seconds of a layer in one training step: its matmuls with all that their operands need
/// (rounding, quantizing, converting), the weight's gradient added to .grad.
struct LayerTime {
  double forward = 0;
  double backward = 0;
  /// In the step: forward once more where blocks are recomputed.
  double total(bool recomputes) const { return (recomputes ? 2 : 1) * forward + backward; }
};

/// Of each layer in each of `types`, in the regions of `precision`. Layers of one shape are
/// measured once. The formats take turns `rounds` times, and the fastest round counts: what the
/// machine can do while nothing else runs. Random generators are left alone.
std::vector<std::map<ComputeType, LayerTime>> layer_times(const std::vector<TunableLayer>& layers,
                                                          const std::vector<ComputeType>& types,
                                                          const MixedPrecision& precision,
                                                          int rounds);

}  // namespace halftone
