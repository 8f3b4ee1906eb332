// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/nn/module.h>
#include <torch/nn/pimpl.h>
#include <torch/types.h>

#include <cstdint>

#include "halftone/nn/linear.h"

namespace halftone {

/// w2(silu(w1 x) * w3 x), SwiGLU (Shazeer 2020).
class FeedForwardImpl : public torch::nn::Module {
 public:
  FeedForwardImpl(std::int64_t dim, std::int64_t hidden_dim, double dropout);

  torch::Tensor forward(const torch::Tensor& x);  // (..., dim) -> (..., dim)

  /// The dtype that forward() rounds x to before anything else: x may come in it.
  torch::ScalarType input_dtype(const torch::Tensor& x) const;

 private:
  double dropout_;
  Linear w1_{nullptr};
  Linear w2_{nullptr};
  Linear w3_{nullptr};
};
TORCH_MODULE(FeedForward);

}  // namespace halftone
