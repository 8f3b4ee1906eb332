// SPDX-License-Identifier: Apache-2.0
// The memory of a training step's tensors, computed from shapes alone. It includes released
// gradients and excludes the optimizer's buffers. It follows the list of tensors that fused layers
// keep (docs/numerics.md).
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <optional>

#include "halftone/kernels/gemm/compute_type.h"
#include "halftone/models/model_config.h"
#include "halftone/precision/memory_policy.h"
#include "halftone/precision/policy.h"

namespace halftone {

/// The tokens of an optimizer step.
struct StepShape {
  std::int64_t batch_size = 1;     // rows of a micro-batch
  std::int64_t predictions = 1;    // of a row
  std::int64_t micro_batches = 1;  // of the step
};

/// The formats of its tensors on the CPU.
struct StepDtypes {
  torch::ScalarType weights = torch::kFloat;    // of matrices
  torch::ScalarType stream = torch::kFloat;     // of the residual sum
  ComputeType compute = ComputeType::kFloat32;  // of the matmuls
  bool recompute_blocks = false;
  /// All micro-batches run as one, and gradients have this dtype until they are applied
  /// (optim/optimizer_in_backward.h), which in the first step at least is after they were measured.
  std::optional<torch::ScalarType> released_gradients;
};

StepDtypes step_dtypes(const PrecisionPolicy& precision, const MemoryPolicy& memory);

/// Bytes, in numbers that cannot overflow.
struct ActivationMemory {
  double activations = 0;  // what the layers keep or hand to each other, and gradients of that
  double workspace = 0;    // converted weights, operands in other formats, the head's gradient
  double total() const { return activations + workspace; }
};

/// At the moment of the step in which they are the most. REQUIRES a validate()d `model`, whose
/// vocab_size is known; no modules that are kept in fp32.
ActivationMemory peak_activation_memory(const ModelConfig& model, const StepShape& shape,
                                        const StepDtypes& formats);

/// The bytes of right operands that stay packed, one for each shape (MatmulFormat::packed_bytes()).
double packed_operand_bytes(const ModelConfig& model, const StepShape& shape,
                            const StepDtypes& formats);

}  // namespace halftone
