// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/nn/module.h>
#include <torch/nn/pimpl.h>
#include <torch/types.h>

#include <cstdint>

namespace halftone {

/// x / sqrt(mean(x^2) + eps) over the last dimension, in fp32 (double for double), rounded to x's
/// dtype (not under autocast with a weight marked by mark_keep_fp32()), times weight. Zhang and
/// Sennrich 2019.
/// x (..., dim), weight (dim); returns (..., dim) in the dtype of x times weight.
torch::Tensor rms_norm(const torch::Tensor& x, const torch::Tensor& weight, double eps);

class RmsNormImpl : public torch::nn::Module {
 public:
  RmsNormImpl(std::int64_t dim, double eps);

  torch::Tensor forward(const torch::Tensor& x);  // (..., dim) -> (..., dim)

  torch::Tensor weight;  // (dim), ones

 private:
  double eps_;
};
TORCH_MODULE(RmsNorm);

}  // namespace halftone
