// SPDX-License-Identifier: Apache-2.0
// The number formats that linear layers multiply in, and what each of them is to the rest.
#pragma once

#include <torch/types.h>

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace halftone {

class MatmulFormat;

/// The format that the operands of a linear layer's matmuls are rounded to. From the finest to the
/// coarsest.
enum class ComputeType { kFloat32, kBFloat16, kFloat16, kInt8, kFloat8Rows, kFloat8 };

/// All of them, from the finest to the coarsest.
const std::vector<ComputeType>& compute_types();

/// "fp32", "bf16", "fp16", "int8", "fp8-row", "fp8".
std::string_view to_string(ComputeType type);

/// How the format is computed (matmul_format.h).
const MatmulFormat& matmul_format(ComputeType type);

/// The dtype of the tensors that go into a matmul and come out of it: that of autocast, where
/// autocast makes the format, and of what is quantized, where a layer quantizes its operands
/// itself.
torch::ScalarType tensor_dtype(ComputeType type);

/// The format whose numbers are those of `dtype`; nothing where there is none.
std::optional<ComputeType> compute_type_of(torch::ScalarType dtype);

/// Whether linear layers quantize their operands themselves: autocast goes no further than
/// tensor_dtype().
bool is_quantized(ComputeType type);

/// The format of an output head beside layers in `type`.
ComputeType lm_head_type(ComputeType type);

/// Whether gradients of usual size fall below the format's range, so that the loss is scaled.
bool needs_loss_scaling(ComputeType type);

/// The precision of fp32 weights that computes in `type`: "32-true", else "bf16-mixed" and so on.
std::string fp32_weights_precision(ComputeType type);

}  // namespace halftone
