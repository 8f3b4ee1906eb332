// SPDX-License-Identifier: Apache-2.0
#include "halftone/plan/shape_functions.h"

#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/nn/modules/conv.h>

#include <array>
#include <vector>

#include "halftone/autocast/autocast.h"
#include "halftone/kernels/linear/compute_context.h"
#include "halftone/nn/conv2d.h"

namespace halftone::shape_functions_test {
namespace {

using torch::Tensor;

struct Shapes {
  std::vector<std::int64_t> y, d_x, d_weight, d_bias;
  torch::ScalarType dtype;
  bool operator==(const Shapes&) const = default;
};

template <class Layer>
Shapes shapes_of(Layer layer, torch::Device device) {
  layer->to(device);
  const Tensor x = torch::zeros({2, 6, 9, 7}, device).requires_grad_();
  const Tensor y = layer->forward(x);
  const auto grads =
      torch::autograd::grad({y}, {x, layer->weight, layer->bias}, {torch::empty_like(y)});
  return {y.sizes().vec(), grads[0].sizes().vec(), grads[1].sizes().vec(), grads[2].sizes().vec(),
          y.scalar_type()};
}

TEST(ShapeFunctions, ConvolutionsHaveTheirShapesInEveryFormat) {
  register_shape_functions();
  const auto ours = [](std::int64_t groups, std::array<std::int64_t, 2> stride) {
    return Conv2d(Conv2dOptions{.in_channels = 6,
                                .out_channels = 4,
                                .kernel = {3, 2},
                                .stride = stride,
                                .padding = {1, 0},
                                .dilation = {1, 2},
                                .groups = groups});
  };
  for (const ComputeType type : compute_types()) {
    const torch::ScalarType dtype = tensor_dtype(type);
    const Autocast autocast(torch::kCPU, dtype, dtype != torch::kFloat);
    const ComputeScope scope(compute_context_in(type));
    for (const std::array<std::int64_t, 2>& stride : {std::array<std::int64_t, 2>{1, 1}, {2, 3}})
      EXPECT_EQ(shapes_of(ours(1, stride), torch::kMeta), shapes_of(ours(1, stride), torch::kCPU));
    const std::int64_t groups = is_quantized(type) ? 1 : 2;
    EXPECT_EQ(shapes_of(ours(groups, {1, 1}), torch::kMeta),
              shapes_of(ours(groups, {1, 1}), torch::kCPU));
  }
}

TEST(ShapeFunctions, TransposedConvolutionsHaveTheirShapes) {
  register_shape_functions();
  const auto layer = [] {
    return torch::nn::ConvTranspose2d(
        torch::nn::ConvTranspose2dOptions(6, 4, {3, 2}).stride({2, 3}).output_padding({1, 0}));
  };
  EXPECT_EQ(shapes_of(layer(), torch::kMeta), shapes_of(layer(), torch::kCPU));
}

}  // namespace
}  // namespace halftone::shape_functions_test
