// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/nn/module.h>
#include <torch/nn/pimpl.h>
#include <torch/types.h>

#include <cstdint>

#include "halftone/kernels/fused/rms_norm.h"

namespace halftone {

/// Root mean square normalisation (kernels/fused/rms_norm.h).
class RmsNormImpl : public torch::nn::Module {
 public:
  RmsNormImpl(std::int64_t dim, double eps);

  torch::Tensor forward(const torch::Tensor& x);  // (..., dim) -> (..., dim)
  /// Adds a residual branch to the stream x, then norms the sum and rounds it to `dtype` if that is
  /// narrower. An undefined branch adds nothing.
  NormedSum add(const torch::Tensor& x, const torch::Tensor& branch,
                torch::ScalarType dtype = torch::kFloat);

  torch::Tensor weight;  // (dim), ones

 private:
  double eps_;
};
TORCH_MODULE(RmsNorm);

}  // namespace halftone
