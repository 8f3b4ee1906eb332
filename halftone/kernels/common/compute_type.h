// SPDX-License-Identifier: Apache-2.0
// The number formats that linear layers multiply in, and what each of them is to the rest.
#pragma once

#include <torch/types.h>

#include <string>
#include <string_view>
#include <vector>

namespace halftone {

/// The format that the operands of a linear layer's matmuls are rounded to. From the finest to the
/// coarsest.
enum class ComputeType { kFloat32, kBFloat16, kFloat16, kInt8 };

/// All of them, from the finest to the coarsest.
const std::vector<ComputeType>& compute_types();

/// "fp32", "bf16", "fp16", "int8".
std::string_view to_string(ComputeType type);

/// The dtype of the tensors that go into a matmul and come out of it: that of autocast, where
/// autocast makes the format, and fp32 for formats that a layer quantizes its operands to itself.
torch::ScalarType tensor_dtype(ComputeType type);

/// Whether linear layers quantize their operands themselves, so that autocast has no part in it.
bool is_quantized(ComputeType type);

/// Whether gradients of usual size fall below the format's range, so that the loss is scaled.
bool needs_loss_scaling(ComputeType type);

/// The precision of fp32 weights that computes in `type`: "32-true", else "bf16-mixed" and so on.
std::string fp32_weights_precision(ComputeType type);

}  // namespace halftone
