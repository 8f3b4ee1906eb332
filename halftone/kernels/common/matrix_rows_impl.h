// SPDX-License-Identifier: Apache-2.0
// Tensors of any rank as the matrices that linear layers multiply.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <vector>

namespace halftone {

/// (..., c) -> (rows, c), with every size allowed to be 0.
inline torch::Tensor as_rows(const torch::Tensor& x) {
  return x.reshape({c10::multiply_integers(x.sizes().slice(0, x.dim() - 1)), x.size(-1)});
}

/// The shape of `x` with its last size replaced.
inline std::vector<std::int64_t> with_last(const torch::Tensor& x, std::int64_t last) {
  std::vector<std::int64_t> shape = x.sizes().vec();
  shape.back() = last;
  return shape;
}

}  // namespace halftone
