// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/types.h>

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "halftone/kernels/gemm/compute_type.h"

namespace halftone {

/// The meaning of a named precision: a value, not a class hierarchy. Defaults are those of
/// "32-true".
struct PrecisionPolicy {
  std::string name = "32-true";
  torch::ScalarType parameter = torch::kFloat32;  // dtype of weights and gradients
  ComputeType compute = ComputeType::kFloat32;    // format of the matmuls' inputs
  bool loss_scaling = false;
  bool stochastic_rounding = false;  // of the updated weights

  /// The dtype of what goes into a matmul and comes out of it.
  torch::ScalarType compute_dtype() const { return tensor_dtype(compute); }
  /// Whether autocast makes the matmuls' inputs out of weights and activations of another dtype.
  bool autocast() const { return compute_dtype() != parameter; }
  /// What autocast casts to, if it is on.
  std::optional<torch::ScalarType> autocast_dtype() const {
    return autocast() ? std::optional(compute_dtype()) : std::nullopt;
  }
  /// Whether linear layers quantize their inputs (kernels/linear/compute_context.h).
  bool quantizes() const { return is_quantized(compute); }
  /// Whether matmuls take another format than the weights have.
  bool is_mixed() const { return autocast() || quantizes(); }

  /// Dtype that a Trainer gives the floating-point tensors of its batches, as Lightning's
  /// convert_input(): that of 16-bit weights. Beside fp32 weights each keeps its own.
  std::optional<torch::ScalarType> input() const {
    return parameter == torch::kFloat32 ? std::nullopt : std::optional(parameter);
  }
};

/// The names that parse_precision accepts, in the order in which help texts list them.
const std::vector<std::string>& precision_names();

/// The policy called `name`; throws UserError, which lists the names, for any other.
PrecisionPolicy parse_precision(std::string_view name);

}  // namespace halftone
