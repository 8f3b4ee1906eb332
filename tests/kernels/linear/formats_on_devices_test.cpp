// SPDX-License-Identifier: Apache-2.0
// Linear layers and output heads in every number format, on every device, against fp64.
#include <ATen/ops/cat.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <gtest/gtest.h>

#include <limits>

#include "halftone/autocast/autocast.h"
#include "halftone/kernels/linear/linear.h"
#include "halftone/kernels/linear/linear_cross_entropy.h"
#include "support/compute_contexts.h"
#include "support/fused_op.h"
#include "support/on_devices.h"

namespace halftone::formats_on_devices_test {
namespace {

using test::relative_error;
using torch::Tensor;

/// Relative errors, in norm, of results of a few dozen terms: what rounding to the format explains,
/// and half of what it makes at least.
struct Errors {
  double least;
  double most;
};

Errors errors_of(ComputeType type) {
  switch (type) {
    case ComputeType::kFloat32:
      return {0, 1e-5};
    case ComputeType::kBFloat16:
      return {5e-4, 8e-3};
    case ComputeType::kFloat16:
      return {5e-5, 1e-3};
    case ComputeType::kInt8:
      return {1e-3, 3e-2};
    default:
      return {1e-2, 1e-1};
  }
}

void expect_in_format(const Tensor& found, const Tensor& exact, ComputeType type,
                      const char* what) {
  const double error = relative_error(found.cpu(), exact);
  EXPECT_LE(error, errors_of(type).most) << to_string(type) << ' ' << what;
  EXPECT_GE(error, errors_of(type).least) << to_string(type) << ' ' << what;
}

class FormatsOn : public test::OnDevices {
 protected:
  void SetUp() override {
    OnDevices::SetUp();
    torch::manual_seed(1);
  }
  /// A copy with a gradient of its own.
  Tensor leaf(const Tensor& values) const {
    return values.to(device(), values.scalar_type(), /*non_blocking=*/false, /*copy=*/true)
        .requires_grad_();
  }
  /// What `run` gives where layers compute in `type`.
  template <class Run>
  auto under(ComputeType type, const Run& run) const {
    const torch::ScalarType dtype = tensor_dtype(type);
    const Autocast autocast(device().type(), dtype, dtype != torch::kFloat);
    const ComputeScope scope(test::computing_in(type, 3));
    return run();
  }
};
HALFTONE_ON_DEVICES(FormatsOn);

TEST_P(FormatsOn, LayersRoundToTheirFormatForwardAndBackward) {
  // Sizes that a GPU multiplies in fp8.
  const Tensor x = torch::randn({4, 8, 64}), g = torch::randn({4, 8, 64});
  const Tensor a = torch::randn({48, 64}), b = torch::randn({16, 64});
  const Tensor wide_x = x.to(torch::kDouble).flatten(0, 1),
               wide_g = g.to(torch::kDouble).flatten(0, 1);
  const Tensor w = at::cat({a, b}).to(torch::kDouble);
  for (const ComputeType type : compute_types()) {
    const Tensor input = leaf(x);
    const Tensor first = leaf(a), second = leaf(b);
    const Tensor y = under(type, [&] { return merged_linear(input, {first, second}); });
    EXPECT_EQ(y.scalar_type(), tensor_dtype(type));
    EXPECT_EQ(y.device(), input.device());
    y.backward(here(g).to(y.scalar_type()));
    expect_in_format(y.flatten(0, 1), wide_x.mm(w.t()), type, "y");
    expect_in_format(input.grad().flatten(0, 1), wide_g.mm(w), type, "the input's gradient");
    // That of fp8 is computed in bf16.
    const bool fp8 = type == ComputeType::kFloat8 || type == ComputeType::kFloat8Rows;
    const Tensor dw = at::cat({first.grad(), second.grad()});
    EXPECT_EQ(dw.scalar_type(), torch::kFloat);
    expect_in_format(dw, wide_g.t().mm(wide_x), fp8 ? ComputeType::kBFloat16 : type,
                     "the weights' gradient");
  }
}

TEST_P(FormatsOn, LayersTakeSizesThatNoHardwareLikes) {
  const Tensor x = torch::randn({5, 13}), w = torch::randn({7, 13});
  for (const ComputeType type : compute_types()) {
    const Tensor y = under(type, [&] { return halftone::linear(here(x), here(w)); });
    EXPECT_LE(relative_error(y.cpu(), x.to(torch::kDouble).mm(w.to(torch::kDouble).t())),
              errors_of(type).most)
        << to_string(type);
  }
}

TEST_P(FormatsOn, HeadsComputeInTheFormatOfAHead) {
  const Tensor hidden = torch::randn({32, 64}), weight = torch::randn({96, 64}) * 0.2;
  const Tensor targets = torch::randint(96, {32}), mask = torch::ones({32});
  const auto exact_loss = [&](const Tensor& h, const Tensor& w) {
    return at::cross_entropy_loss(h.mm(w.t()), targets);
  };
  const Tensor wide_h = hidden.to(torch::kDouble).requires_grad_();
  const Tensor wide_w = weight.to(torch::kDouble).requires_grad_();
  exact_loss(wide_h, wide_w).backward();
  for (const ComputeType type : compute_types()) {
    const Tensor h = leaf(hidden), w = leaf(weight);
    const Tensor loss =
        under(type, [&] { return linear_cross_entropy(h, w, here(targets), here(mask)); });
    loss.backward();
    // fp8's is bf16's. Rounding 96 logits makes a gradient that is further away than a matmul's.
    const double most = 2 * errors_of(lm_head_type(type)).most;
    EXPECT_LE(relative_error(h.grad().cpu(), wide_h.grad()), most) << to_string(type);
    EXPECT_LE(relative_error(w.grad().cpu(), wide_w.grad()), most) << to_string(type);
    EXPECT_NEAR(loss.item<double>(), exact_loss(wide_h, wide_w).item<double>(), most);
  }
}

TEST_P(FormatsOn, NonFiniteNumbersReachTheirRows) {
  Tensor x = torch::ones({16, 16});
  x[3][2] = std::numeric_limits<float>::infinity();
  for (const ComputeType type : compute_types()) {
    const Tensor y = under(type, [&] {
                       return halftone::linear(here(x), here(torch::ones({16, 16})));
                     }).cpu();
    EXPECT_FALSE(y[3].isfinite().any().item<bool>()) << to_string(type);
    // One scale for the matrix is lost for all of its rows.
    EXPECT_EQ(y[4].isfinite().all().item<bool>(), type != ComputeType::kFloat8) << to_string(type);
  }
}

}  // namespace
}  // namespace halftone::formats_on_devices_test
