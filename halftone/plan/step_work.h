// SPDX-License-Identifier: Apache-2.0
// What a training step computes, by what its speed depends on.
#pragma once

#include <compare>
#include <cstdint>
#include <map>

#include "halftone/kernels/gemm/compute_type.h"

namespace halftone {

/// A layer of this library, as the shape of its matmul: y (rows, out) = x (rows, in) W^T.
struct LayerProduct {
  ComputeType type = ComputeType::kFloat32;
  std::int64_t rows = 0;
  std::int64_t in = 0;
  std::int64_t out = 0;

  auto operator<=>(const LayerProduct&) const = default;
};

/// Flops are two for each multiply-add, forward and backward.
struct StepWork {
  /// Of Linear, Conv2d and the output heads, with all that the operands need: layers of one shape
  /// and format together.
  std::map<LayerProduct, double> layer_flops;
  /// Of LibTorch's own matmuls and convolutions, by the format that has their dtype.
  std::map<ComputeType, double> matmul_flops;
  /// Of the scores and weighted sums of attention, by the same.
  std::map<ComputeType, double> attention_flops;
  double bytes = 0;       // read and written by all other operations
  double functions = 0;   // values of exp() and its like: GELU, softmax, random numbers
  double operations = 0;  // that compute: each costs some time, however small its tensors are

  /// Of all three kinds.
  double flops() const;
  StepWork& operator+=(const StepWork& other);
};

}  // namespace halftone
