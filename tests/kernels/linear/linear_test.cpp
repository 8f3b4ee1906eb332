// SPDX-License-Identifier: Apache-2.0
#include "halftone/kernels/linear/linear.h"

#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <limits>

#include "halftone/autocast/keep_fp32.h"
#include "halftone/kernels/gemm/cpu_gemm_config.h"
#include "halftone/kernels/gemm/gemm_half.h"

namespace halftone::linear_test {
namespace {

using torch::ScalarType;
using torch::Tensor;

std::vector<GemmBackend> paths() { return {GemmBackend::kNative, GemmBackend::kUpcast}; }

/// Half a unit in the last place of the format, with room for the order of fp32 sums.
double rounding_of(ScalarType dtype) {
  if (dtype == torch::kBFloat16) return 0x1p-8;
  return dtype == torch::kHalf ? 0x1p-11 : 1e-6;
}

/// Restores the choice that was in force.
class PathScope {
 public:
  explicit PathScope(GemmBackend path) : before_(cpu_gemm_config()) {
    const GemmBackends all{path, path, path, path};
    set_cpu_gemm_config({.bf16 = all, .fp16 = all});
  }
  ~PathScope() { set_cpu_gemm_config(before_); }

 private:
  CpuGemmConfig before_;
};

class AutocastScope {
 public:
  explicit AutocastScope(ScalarType dtype) {
    at::autocast::set_autocast_dtype(torch::kCPU, dtype);
    at::autocast::set_autocast_enabled(torch::kCPU, true);
  }
  ~AutocastScope() {
    at::autocast::set_autocast_enabled(torch::kCPU, false);
    at::autocast::set_autocast_dtype(torch::kCPU, torch::kBFloat16);
  }
};

void expect_product(const Tensor& c, const Tensor& a, const Tensor& b, double relative) {
  const Tensor wide_a = a.to(torch::kDouble);
  const Tensor wide_b = b.to(torch::kDouble);
  const Tensor expected = wide_a.mm(wide_b);
  // Sums of K products of like size, each rounded once in fp32.
  const Tensor scale = wide_a.abs().mm(wide_b.abs());
  const Tensor bound = expected.abs() * relative + scale * 1e-6;
  ASSERT_EQ(c.sizes(), expected.sizes());
  EXPECT_TRUE(((c.to(torch::kDouble) - expected).abs() <= bound).all().item<bool>())
      << (c.to(torch::kDouble) - expected).abs().max().item<double>();
}

TEST(GemmHalf, EqualsTheDefinitionOnEveryPathSizeAndLayout) {
  torch::manual_seed(1);
  const std::int64_t sizes[][3] = {{1, 1, 1},   {1, 7, 3},    {5, 1, 9},     {3, 5, 1},
                                   {7, 33, 17}, {64, 64, 64}, {65, 129, 31}, {128, 1, 128}};
  for (const ScalarType dtype : {torch::kBFloat16, torch::kHalf}) {
    for (const auto& [m, k, n] : sizes) {
      const Tensor a = torch::randn({m, k}).to(dtype);
      const Tensor b = torch::randn({k, n}).to(dtype);
      const Tensor a_transposed = a.t().contiguous().t();
      const Tensor b_transposed = b.t().contiguous().t();
      const Tensor a_strided = torch::stack({a, a}, 2).select(2, 0);
      const Tensor b_padded = torch::cat({b, b}, 1).narrow(1, 0, n);
      for (const GemmBackend path : paths()) {
        for (const auto& [left, right] : {std::pair{a, b},
                                          {a_transposed, b},
                                          {a, b_transposed},
                                          {a_transposed, b_transposed},
                                          {a_strided, b_padded}}) {
          expect_product(gemm_half(left, right, dtype, path), a, b, rounding_of(dtype));
          const double wide = path == GemmBackend::kNative ? rounding_of(dtype) : 1e-6;
          expect_product(gemm_half(left, right, torch::kFloat, path), a, b, wide);
        }
      }
    }
  }
}

TEST(GemmHalf, EmptySizesGiveZeros) {
  for (const GemmBackend path : paths()) {
    const auto make = [](std::int64_t r, std::int64_t c) {
      return torch::ones({r, c}, torch::kBFloat16);
    };
    EXPECT_EQ(gemm_half(make(0, 3), make(3, 2), torch::kFloat, path).numel(), 0);
    EXPECT_EQ(gemm_half(make(2, 3), make(3, 0), torch::kFloat, path).numel(), 0);
    const Tensor zeros = gemm_half(make(2, 0), make(0, 3), torch::kFloat, path);
    EXPECT_TRUE(zeros.equal(torch::zeros({2, 3})));
  }
}

TEST(GemmHalf, InfinitiesAndNansPassThrough) {
  const float inf = std::numeric_limits<float>::infinity();
  for (const ScalarType dtype : {torch::kBFloat16, torch::kHalf}) {
    Tensor a = torch::ones({4, 32}).to(dtype);
    a[0][3] = inf;
    a[1][5] = std::numeric_limits<float>::quiet_NaN();
    a[2][0] = inf;
    a[2][1] = -inf;
    for (const GemmBackend path : paths()) {
      const Tensor c = gemm_half(a, torch::ones({32, 16}).to(dtype), torch::kFloat, path);
      EXPECT_TRUE((c[0] == inf).all().item<bool>());
      EXPECT_TRUE(c[1].isnan().all().item<bool>());
      EXPECT_TRUE(c[2].isnan().all().item<bool>());
      EXPECT_TRUE((c[3] == 32).all().item<bool>());
    }
  }
}

TEST(GemmHalf, Fp16ResultsBeyondTheRangeAreInfinite) {
  const Tensor big = torch::full({8, 64}, 200.0).to(torch::kHalf);
  for (const GemmBackend path : paths()) {
    EXPECT_TRUE(gemm_half(big, big.t(), torch::kHalf, path).isinf().all().item<bool>());
    if (path != GemmBackend::kNative) {
      EXPECT_TRUE(
          gemm_half(big, big.t(), torch::kFloat, path).equal(torch::full({8, 8}, 2'560'000.0)));
    }
  }
}

TEST(Linear, GradientsOfMixedPrecisionEqualTheDefinition) {
  torch::manual_seed(2);
  for (const ScalarType dtype : {torch::kBFloat16, torch::kHalf}) {
    for (const GemmBackend path : paths()) {
      const PathScope scope(path);
      Tensor x = torch::randn({3, 7, 17}).requires_grad_();
      Tensor w = torch::randn({9, 17}).requires_grad_();
      const Tensor g = torch::randn({3, 7, 9}).to(dtype);
      Tensor y;
      {
        const AutocastScope autocast(dtype);
        y = halftone::linear(x, w);
      }
      ASSERT_EQ(y.scalar_type(), dtype);
      ASSERT_EQ(y.sizes(), (std::vector<std::int64_t>{3, 7, 9}));
      y.backward(g);
      const Tensor x16 = x.detach().to(dtype).view({21, 17});
      const Tensor w16 = w.detach().to(dtype);
      const Tensor g16 = g.view({21, 9});
      expect_product(y.detach().view({21, 9}), x16, w16.t(), rounding_of(dtype));
      expect_product(x.grad().view({21, 17}), g16, w16, rounding_of(dtype));
      ASSERT_EQ(w.grad().scalar_type(), torch::kFloat);
      const double wide = path == GemmBackend::kNative ? rounding_of(dtype) : 1e-6;
      expect_product(w.grad(), g16.t(), x16, wide);
    }
  }
}

TEST(Linear, BackwardInsideTheAutocastRegionGivesTheSame) {
  for (const GemmBackend path : paths()) {
    const PathScope scope(path);
    torch::manual_seed(3);
    Tensor w = torch::randn({8, 16}).requires_grad_();
    const Tensor x = torch::randn({4, 16});
    const AutocastScope autocast(torch::kBFloat16);
    halftone::linear(x, w).backward(torch::ones({4, 8}, torch::kBFloat16));
    const Tensor x16 = x.to(torch::kBFloat16);
    const Tensor ones = torch::ones({8, 4}, torch::kBFloat16);
    at::autocast::set_autocast_enabled(torch::kCPU, false);
    expect_product(w.grad(), ones, x16, path == GemmBackend::kNative ? 0x1p-8 : 1e-6);
  }
}

/// Weights of 8, 3 and 4 rows, of their own or in one buffer as an optimizer keeps them.
std::vector<Tensor> three_weights(bool adjacent) {
  const Tensor buffer = torch::randn({15, 16});
  std::vector<Tensor> weights;
  for (const auto& part : buffer.split_with_sizes({8, 3, 4}))
    weights.push_back((adjacent ? part : part.clone()).detach().requires_grad_());
  return weights;
}

TEST(MergedLinear, EqualsItsMembersSideBySideInEveryDtype) {
  torch::manual_seed(4);
  for (const bool adjacent : {false, true}) {
    for (const auto dtype : {torch::kFloat, torch::kBFloat16, torch::kHalf}) {
      for (const GemmBackend path : {GemmBackend::kNative, GemmBackend::kUpcast}) {
        const PathScope scope(path);
        const Tensor x = torch::randn({5, 2, 16}).requires_grad_();
        const std::vector<Tensor> weights = three_weights(adjacent);
        const Tensor g = torch::randn({5, 2, 15}).to(dtype);
        std::vector<Tensor> leaves{x};
        leaves.insert(leaves.end(), weights.begin(), weights.end());
        const AutocastScope autocast(dtype == torch::kFloat ? torch::kBFloat16 : dtype);
        at::autocast::set_autocast_enabled(torch::kCPU, dtype != torch::kFloat);
        const Tensor out = merged_linear(x, weights);
        EXPECT_EQ(out.scalar_type(), dtype);
        const auto grads = torch::autograd::grad({out}, leaves, {g});
        const auto wide = [&](const Tensor& t) { return t.to(dtype).to(torch::kDouble); };
        const double tolerance = dtype == torch::kFloat  ? 1e-6
                                 : dtype == torch::kHalf ? 1e-3
                                                         : 8e-3;
        const auto expect_near = [&](const Tensor& actual, const Tensor& expected) {
          const Tensor error = actual.to(torch::kDouble) - expected;
          EXPECT_LT((error.norm() / expected.norm()).item<double>(), tolerance);
        };
        at::autocast::set_autocast_enabled(torch::kCPU, false);
        const Tensor all = at::cat(weights);
        expect_near(out, wide(x).matmul(wide(all).t()));
        expect_near(grads[0], wide(g).matmul(wide(all)));
        const Tensor dw = wide(g).flatten(0, 1).t().mm(wide(x).flatten(0, 1));
        expect_near(at::cat({grads[1], grads[2], grads[3]}), dw);
      }
    }
  }
}

TEST(MergedLinear, Fp32SecondDerivativesEqualThoseOfLinear) {
  torch::manual_seed(6);
  const Tensor x = torch::randn({5, 16}).requires_grad_();
  const std::vector<Tensor> weights = three_weights(false);
  const auto penalty = [&](const Tensor& y) {
    const Tensor slope = torch::autograd::grad({y.pow(3).sum()}, {x}, {}, true, true)[0];
    return torch::autograd::grad({slope.square().sum()}, {x, weights[1]});
  };
  const auto ours = penalty(merged_linear(x, weights));
  const auto theirs = penalty(at::linear(x, at::cat(weights)));
  for (std::size_t i = 0; i < 2; ++i)
    EXPECT_LT(((ours[i] - theirs[i]).norm() / theirs[i].norm()).item<double>(), 1e-5);
}

TEST(MergedLinear, WeightsKeptInFp32MakeTheResultFp32) {
  torch::manual_seed(7);
  const Tensor x = torch::randn({5, 16});
  const std::vector<Tensor> weights = three_weights(false);
  mark_keep_fp32(weights[1]);
  const AutocastScope autocast(torch::kBFloat16);
  const Tensor out = merged_linear(x, weights);
  EXPECT_EQ(out.scalar_type(), torch::kFloat);
  at::autocast::set_autocast_enabled(torch::kCPU, false);
  EXPECT_TRUE(out.narrow(1, 8, 3).equal(at::linear(x, weights[1])));
  const Tensor rest = out.narrow(1, 0, 8);
  EXPECT_TRUE(rest.equal(rest.to(torch::kBFloat16).to(torch::kFloat)));
  unmark_keep_fp32(weights[1]);
}

TEST(Linear, Fp64GradientsAgreeWithFiniteDifferences) {
  torch::manual_seed(5);
  Tensor x = torch::randn({2, 3, 4}, torch::kDouble).requires_grad_();
  Tensor w = torch::randn({5, 4}, torch::kDouble).requires_grad_();
  const Tensor g = torch::randn({2, 3, 5}, torch::kDouble);
  (halftone::linear(x, w) * g).sum().backward();
  const torch::NoGradGuard no_grad;
  for (Tensor* input : {&x, &w}) {
    Tensor flat = input->view({-1});
    const Tensor grad = input->grad().flatten();
    for (std::int64_t i = 0; i < flat.numel(); ++i) {
      const double value = flat[i].item<double>();
      const auto f = [&](double v) {
        flat[i] = v;
        return (halftone::linear(x, w) * g).sum().item<double>();
      };
      const double slope = (f(value + 1e-5) - f(value - 1e-5)) / 2e-5;
      flat[i] = value;
      EXPECT_NEAR(grad[i].item<double>(), slope, 1e-7);
    }
  }
}

TEST(Linear, EmptyBatchGivesZeroWeightGradient) {
  Tensor w = torch::randn({5, 4}).requires_grad_();
  const AutocastScope autocast(torch::kHalf);
  const Tensor y = halftone::linear(torch::zeros({0, 4}), w);
  EXPECT_EQ(y.sizes(), (std::vector<std::int64_t>{0, 5}));
  y.sum().backward();
  EXPECT_TRUE(w.grad().equal(torch::zeros({5, 4})));
}

TEST(Linear, RefusesMisuse) {
  const Tensor x = torch::zeros({2, 4});
  EXPECT_THROW(halftone::linear(x, torch::zeros({5, 3})), c10::Error);
  EXPECT_THROW(halftone::linear(x, torch::zeros({5, 4}, torch::kBFloat16)), c10::Error);
  Tensor w = torch::zeros({5, 4}).requires_grad_();
  const AutocastScope autocast(torch::kBFloat16);
  const Tensor y = halftone::linear(x, w).sum();
  EXPECT_THROW(torch::autograd::grad({y}, {w}, {}, true, /*create_graph=*/true), c10::Error);
}

TEST(Linear, DoubleIsNeverCast) {
  const AutocastScope autocast(torch::kBFloat16);
  const Tensor x = torch::ones({2, 4}, torch::kDouble);
  EXPECT_EQ(halftone::linear(x, x).scalar_type(), torch::kDouble);
}

}  // namespace
}  // namespace halftone::linear_test
