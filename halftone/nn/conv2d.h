// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/nn/module.h>
#include <torch/nn/pimpl.h>
#include <torch/types.h>

#include <array>
#include <cstdint>

#include "halftone/kernels/linear/unfold.h"

namespace halftone {

/// Of a side each: height, width.
struct Conv2dOptions {
  std::int64_t in_channels = 0;
  std::int64_t out_channels = 0;
  std::array<std::int64_t, 2> kernel{1, 1};
  std::array<std::int64_t, 2> stride{1, 1};
  std::array<std::int64_t, 2> padding{0, 0};
  std::array<std::int64_t, 2> dilation{1, 1};
  std::int64_t groups = 1;  // 1 in int8 and fp8
  bool has_bias = true;
};

/// A convolution in the formats of halftone::Linear (kernels/linear/conv2d.h says which arithmetic
/// each has). Weight and bias are named and initialised as torch::nn::Conv2d's: uniform in +-1 /
/// sqrt(in_channels / groups * height * width).
class Conv2dImpl : public torch::nn::Module {
 public:
  /// Throws UserError for sizes below 1 and for channels that groups do not divide.
  explicit Conv2dImpl(const Conv2dOptions& options);

  /// x (B, in_channels, H, W) -> (B, out_channels, places down, places across). Throws UserError in
  /// int8 and fp8 for groups.
  torch::Tensor forward(const torch::Tensor& x);

  torch::Tensor weight;  // (out_channels, in_channels / groups, height, width)
  torch::Tensor bias;    // (out_channels), or undefined

 private:
  WindowGrid grid_;
  std::int64_t groups_;
};
TORCH_MODULE(Conv2d);

}  // namespace halftone
