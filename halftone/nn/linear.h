// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/nn/module.h>
#include <torch/nn/pimpl.h>
#include <torch/types.h>

#include <cstdint>

namespace halftone {

/// y = x W^T, and + b where there is a bias, by the GEMM that suits the dtype and the machine
/// (kernels/linear/linear.h). Initialised as torch::nn::Linear is: uniform in
/// +-1/sqrt(in_features).
class LinearImpl : public torch::nn::Module {
 public:
  LinearImpl(std::int64_t in_features, std::int64_t out_features, bool has_bias = false);

  torch::Tensor forward(const torch::Tensor& x);  // (..., in) -> (..., out)

  torch::Tensor weight;  // (out, in)
  torch::Tensor bias;    // (out), or undefined
};
TORCH_MODULE(Linear);

}  // namespace halftone
