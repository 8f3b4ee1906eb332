// SPDX-License-Identifier: Apache-2.0
// How long a training step should take, from what the machine was measured to do.
#pragma once

#include <map>

#include "halftone/kernels/gemm/compute_type.h"
#include "halftone/models/model_config.h"
#include "halftone/plan/memory_plan.h"
#include "halftone/plan/step_memory.h"
#include "halftone/plan/step_work.h"

namespace halftone {

/// Of this machine's CPU with the threads that LibTorch has.
struct MachineSpeed {
  /// Flops per second of a layer's matmuls with all that their operands need (layer_speeds()).
  std::map<ComputeType, double> matmuls;
  double memory = 0;  // bytes per second, read or written (triad_bytes_per_s())
  /// The same flops of layers of single shapes, where they were measured.
  std::map<LayerProduct, double> layers = {};
  double function_s = 0;   // of a value of exp() and its like, beside reading and writing it
  double operation_s = 0;  // what an operation takes besides, however small its tensors are
};

/// Measures for about a second.
MachineSpeed measure_machine_speed();

/// And the layers of a step that have most of its flops, in their own shapes, of up to 4096 rows:
/// for some seconds.
MachineSpeed measure_machine_speed(const StepWork& work);

/// Of a run on `share` times less of it, such as one of several processes that have the same cores.
MachineSpeed part_of(const MachineSpeed& all, double share);

/// Seconds of an optimizer step: its matmuls at their measured speed, the activations and the
/// optimizer's buffers at that of memory. `bytes`: peak_memory() of the step.
double step_seconds(const ModelConfig& model, const StepShape& shape, const NumericsConfig& recipe,
                    const MemoryBytes& bytes, const MachineSpeed& speed);

/// Of these, one backward pass.
double backward_seconds(const ModelConfig& model, const StepShape& shape,
                        const NumericsConfig& recipe, const MemoryBytes& bytes,
                        const MachineSpeed& speed);

/// Seconds of what a step computes. REQUIRES measured speeds.
double work_seconds(const StepWork& work, const MachineSpeed& speed);

}  // namespace halftone
