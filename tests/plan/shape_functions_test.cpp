// SPDX-License-Identifier: Apache-2.0
#include "halftone/plan/shape_functions.h"

#include <ATen/ops/conv_transpose2d.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <array>
#include <vector>

#include "halftone/autocast/autocast.h"
#include "halftone/kernels/linear/compute_context.h"
#include "halftone/kernels/linear/conv2d.h"

namespace halftone::shape_functions_test {
namespace {

using torch::Tensor;

struct Shapes {
  std::vector<std::int64_t> y, d_x, d_weight, d_bias;
  torch::ScalarType dtype;
  bool operator==(const Shapes&) const = default;
};

/// Of x (2, 6, 9, 7) and a weight and bias of these shapes on `device`.
template <class Convolution>
Shapes shapes_of(const Convolution& convolution, const std::vector<std::int64_t>& weight,
                 torch::Device device) {
  const Tensor x = torch::zeros({2, 6, 9, 7}, device).requires_grad_();
  const Tensor w = torch::zeros(weight, device).requires_grad_();
  const Tensor b = torch::zeros({4}, device).requires_grad_();
  const Tensor y = convolution(x, w, b);
  const auto grads = torch::autograd::grad({y}, {x, w, b}, {torch::empty_like(y)});
  return {y.sizes().vec(), grads[0].sizes().vec(), grads[1].sizes().vec(), grads[2].sizes().vec(),
          y.scalar_type()};
}

TEST(ShapeFunctions, ConvolutionsHaveTheirShapesInEveryFormat) {
  register_shape_functions();
  for (const ComputeType type : compute_types()) {
    const torch::ScalarType dtype = tensor_dtype(type);
    const Autocast autocast(torch::kCPU, dtype, dtype != torch::kFloat);
    const ComputeScope scope(compute_context_in(type));
    for (const std::array<std::int64_t, 2>& stride : {std::array<std::int64_t, 2>{1, 1}, {3, 2}}) {
      for (const std::int64_t groups : {1, is_quantized(type) ? 1 : 2}) {
        const auto convolved = [&](const Tensor& x, const Tensor& w, const Tensor& b) {
          const WindowGrid grid{{3, 2}, stride, {1, 0}, {1, 2}};
          return halftone::conv2d(x, w, b, grid, groups);
        };
        const std::vector<std::int64_t> weight{4, 6 / groups, 3, 2};
        EXPECT_EQ(shapes_of(convolved, weight, torch::kMeta),
                  shapes_of(convolved, weight, torch::kCPU));
      }
    }
  }
}

TEST(ShapeFunctions, TransposedConvolutionsHaveTheirShapes) {
  register_shape_functions();
  const auto convolved = [](const Tensor& x, const Tensor& w, const Tensor& b) {
    return at::conv_transpose2d(x, w, b, {2, 3}, {1, 0}, {1, 0});
  };
  EXPECT_EQ(shapes_of(convolved, {6, 4, 3, 2}, torch::kMeta),
            shapes_of(convolved, {6, 4, 3, 2}, torch::kCPU));
}

}  // namespace
}  // namespace halftone::shape_functions_test
