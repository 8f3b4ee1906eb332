// SPDX-License-Identifier: Apache-2.0
// The three matmuls of an output head, a chunk of rows at a time, in the ways that linear() has
// for a whole batch.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <memory>

namespace halftone {

/// The gradient of a head's weight is upcast and added so many elements at a time.
inline constexpr std::int64_t kWeightGradientBlock = std::int64_t{1} << 19U;

struct LmHeadFormat {
  torch::ScalarType dtype = torch::kFloat;  // of the operands: fp32, bf16 or fp16
  bool int8 = false;                        // with dtype fp32: int8 operands instead
  std::uint64_t stream = 0;                 // of the stochastic rounding of int8 gradients
};

/// Of one weight (V, dim), which is rounded once. Call logits() for a chunk, then what is wanted of
/// the others with the gradient of those logits. CPU, no autograd.
class LmHeadMatmuls {
 public:
  virtual ~LmHeadMatmuls() = default;

  /// hidden W^T in the recipe's dtype, dense, to be overwritten by the gradient; valid until the
  /// next call. hidden (n, dim); returns (n, V).
  virtual torch::Tensor logits(const torch::Tensor& hidden) = 0;

  /// The power of two by which the gradient, of rows of weights up to `largest` in magnitude, is to
  /// be multiplied before it is rounded to the recipe's dtype: as large as is safe where the range
  /// of that is short (fp16), else 0.
  virtual int gradient_exponent(double largest) const;

  /// factor * gradient W into `out` (n, dim) fp32, dense.
  virtual void hidden_gradient(const torch::Tensor& gradient, double factor,
                               const torch::Tensor& out) = 0;

  /// Adds factor * gradient^T hidden to `sum` (V, dim) fp32; undefined counts as 0.
  virtual void add_weight_gradient(const torch::Tensor& gradient, double factor,
                                   torch::Tensor& sum) = 0;
};

/// weight (V, dim), fp32, bf16 or fp16.
std::unique_ptr<LmHeadMatmuls> lm_head_matmuls(const torch::Tensor& weight,
                                               const LmHeadFormat& recipe);

}  // namespace halftone
