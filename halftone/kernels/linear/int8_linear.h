// SPDX-License-Identifier: Apache-2.0
// Linear layers whose matmuls have int8 inputs, forward and backward ("int8-mixed").
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <vector>

namespace halftone {

struct Int8Options {
  std::uint64_t seed = 0;  // of the stochastic rounding of gradients
  std::uint64_t step = 0;  // of this forward pass: no two passes of a run have the same
  bool enabled = true;     // false: fp32 again, inside another region
  std::uint64_t call = 0;  // of a layer in this pass: which comes next
};

/// While it lives, halftone's linear layers of fp32 tensors go through int8_merged_linear
/// in this thread. Regions nest; the innermost counts. Gradients are rounded as the forward pass's
/// region says, wherever and whenever backward runs.
class Int8Matmul {
 public:
  explicit Int8Matmul(const Int8Options& options);
  ~Int8Matmul();
  Int8Matmul(const Int8Matmul&) = delete;
  Int8Matmul& operator=(const Int8Matmul&) = delete;

 private:
  Int8Options options_;
  Int8Matmul* outer_;
  friend Int8Options int8_options();
  friend std::uint64_t next_int8_stream();
};

/// Those of the innermost region, as they stand: a region of them repeats what comes now. Not
/// enabled where there is none.
Int8Options int8_options();

inline bool is_int8_matmul_enabled() { return int8_options().enabled; }

/// The random stream of the next layer in the innermost region.
std::uint64_t next_int8_stream();

/// x W^T for each of `weights`, side by side, differentiable once. Each matmul's two inputs are
/// rounded to int8 with one scale for each row (of the matrix whose rows it sums along, the weights
/// being one matrix), x and W to the nearest, gradients stochastically; sums are exact int32,
/// results fp32. Of x's and the gradients' integers int8_left_limit() is the largest.
/// x (..., in), weights (out_i, in), fp32; returns (..., sum of out_i).
torch::Tensor int8_merged_linear(const torch::Tensor& x, const std::vector<torch::Tensor>& weights);

}  // namespace halftone
