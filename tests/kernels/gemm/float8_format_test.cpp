// SPDX-License-Identifier: Apache-2.0
// fp8 against its definition: the numbers of e4m3 and e5m2 are listed here from their bits.
#include <ATen/ops/cat.h>
#include <ATen/ops/stack.h>
#include <gtest/gtest.h>
#include <torch/types.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <tuple>
#include <vector>

#include "halftone/kernels/gemm/compute_type.h"
#include "halftone/kernels/gemm/matmul_format.h"
#include "support/fused_op.h"
#include "support/gemm_config_scope.h"

namespace halftone::float8_format_test {
namespace {

using test::relative_error;
using torch::Tensor;

struct Layout {
  int exponent_bits;
  int mantissa_bits;
  int bias;
  double largest;
};
constexpr Layout kE4m3{4, 3, 7, 448.0};
constexpr Layout kE5m2{5, 2, 15, 57344.0};

/// The non-negative numbers of a format, in order.
std::vector<double> numbers_of(const Layout& layout) {
  std::vector<double> numbers;
  for (int exponent = 0; exponent < 1 << layout.exponent_bits; ++exponent)
    for (int mantissa = 0; mantissa < 1 << layout.mantissa_bits; ++mantissa) {
      const double fraction = std::ldexp(mantissa, -layout.mantissa_bits);
      const double number = exponent == 0 ? std::ldexp(fraction, 1 - layout.bias)
                                          : std::ldexp(1 + fraction, exponent - layout.bias);
      if (number <= layout.largest) numbers.push_back(number);
    }
  return numbers;
}

double nearest(const Layout& layout, double x) {
  static std::vector<double> numbers;
  numbers = numbers_of(layout);
  const double magnitude = std::min(std::abs(x), layout.largest);
  const auto above = std::lower_bound(numbers.begin(), numbers.end(), magnitude);
  if (above == numbers.begin()) return std::copysign(*above, x);
  const double high = *above, low = *(above - 1);
  const bool low_is_even = (above - 1 - numbers.begin()) % 2 == 0;
  const bool up =
      magnitude - low > high - magnitude || (magnitude - low == high - magnitude && !low_is_even);
  return std::copysign(up ? high : low, x);
}

/// The matrix as a layer has it, by definition: the largest power of two that fits scales it.
Tensor rounded_as_one(const Tensor& matrix, const Layout& layout) {
  const Tensor x = matrix.to(torch::kBFloat16).to(torch::kDouble).contiguous();
  const double largest = x.abs().max().item<double>();
  const double scale =
      largest == 0 ? 1 : std::exp2(std::floor(std::log2(layout.largest / largest)));
  Tensor out = torch::empty_like(x);
  for (std::int64_t i = 0; i < x.numel(); ++i)
    out.data_ptr<double>()[i] = nearest(layout, x.data_ptr<double>()[i] * scale) / scale;
  return out;
}

class Float8 : public testing::TestWithParam<std::tuple<ComputeType, std::string>> {
 protected:
  bool by_row() const { return std::get<0>(GetParam()) == ComputeType::kFloat8Rows; }
  /// With a scale for the matrix, or for each row.
  Tensor rounded(const Tensor& matrix, const Layout& layout) const {
    if (!by_row()) return rounded_as_one(matrix, layout);
    std::vector<Tensor> rows;
    for (const Tensor& row : matrix.unbind(0)) rows.push_back(rounded_as_one(row, layout));
    return at::stack(rows);
  }

  const MatmulFormat& format_ = matmul_format(std::get<0>(GetParam()));
  test::GemmConfigScope ways_{std::get<1>(GetParam())};
};

/// Numbers of all sizes, in the order of magnitudes that a layer's have and far below.
Tensor spread(at::IntArrayRef shape) {
  return torch::randn(shape) * torch::randn(shape).mul(4).exp2();
}

TEST_P(Float8, MultipliesOperandsThatAreRoundedToIt) {
  torch::manual_seed(1);
  const Tensor x = spread({7, 40}), w = spread({24, 40}) * 0.02, g = spread({7, 24}) * 1e-5;
  const OperandPtr weight = format_.weight({w}), input = format_.input(x);
  const OperandPtr gradient = format_.gradient(g, {});
  const Tensor x8 = rounded(x, kE4m3), w8 = rounded(w, kE4m3), g8 = rounded(g, kE5m2);
  const Tensor w8_by_input = rounded(w.t(), kE4m3).t();  // the matmul sums along the outputs
  constexpr double kBf16 = 3e-3;                         // the result's own rounding
  EXPECT_LT(relative_error(format_.forward(*input, *weight), x8.mm(w8.t())), kBf16);
  const Tensor dx = format_.input_gradient(*gradient, *weight, torch::kFloat);
  EXPECT_LT(relative_error(dx, g8.mm(w8_by_input)), kBf16);
  // It is fp8: exact operands are much further away.
  const auto exact = [](const Tensor& t) { return t.to(torch::kBFloat16).to(torch::kDouble); };
  EXPECT_GT(relative_error(format_.forward(*input, *weight), exact(x).mm(exact(w).t())), 3 * kBf16);
  EXPECT_GT(relative_error(dx, exact(g).mm(exact(w))), 3 * kBf16);
}

TEST_P(Float8, TakesTheWeightsGradientInBf16) {
  torch::manual_seed(2);
  const Tensor x = spread({7, 40}), g = spread({7, 24});
  const MatmulFormat& bf16 = matmul_format(ComputeType::kBFloat16);
  const Tensor expected =
      bf16.weight_gradient(*bf16.gradient(g, {}), *bf16.input(x), torch::kFloat);
  EXPECT_TRUE(format_.weight_gradient(*format_.gradient(g, {}), *format_.input(x), torch::kFloat)
                  .equal(expected));
}

/// The numbers that x is rounded to: a matmul with the identity.
Tensor seen(const MatmulFormat& format, const Tensor& x) {
  return format.forward(*format.input(x), *format.weight({torch::eye(x.size(1))}))
      .to(torch::kDouble);
}

TEST_P(Float8, RoundsEveryBf16NumberToTheNearest) {
  // All bf16 numbers from 2^-14 to 448, and their negatives; the largest one fixes the scale at 1.
  const Tensor bits = torch::arange((127 - 14) << 7, ((127 + 8) << 7) + 97, torch::kInt);
  const Tensor positive = bits.mul(65536).view(torch::kFloat);
  ASSERT_EQ(positive[-1].item<float>(), 448.0F);
  const Tensor x = at::cat({positive, -positive}).unsqueeze(1);
  EXPECT_TRUE(seen(format_, x).equal(rounded(x, kE4m3)));
}

TEST_P(Float8, HasAScaleThatUsesTheRange) {
  for (const double size : {1e-30, 1e-3, 1.0, 3e5, 1e30}) {
    const Tensor x = torch::tensor({{1.0, -0.37, 0.0021}}, torch::kFloat) * size;
    EXPECT_LT(relative_error(seen(format_, x), x.to(torch::kDouble)), 0.0625) << size;
    EXPECT_NE(seen(format_, x)[0][2].item<double>(), 0.0) << size;
  }
}

TEST_P(Float8, ZeroStaysZero) {
  EXPECT_TRUE(seen(format_, torch::zeros({3, 4})).equal(torch::zeros({3, 4}, torch::kDouble)));
}

TEST_P(Float8, MakesNonFiniteNumbersSeen) {
  for (const float bad :
       {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    Tensor x = torch::ones({3, 4});
    x[1][2] = bad;
    EXPECT_FALSE(seen(format_, x)[1].isfinite().any().item<bool>());
    EXPECT_EQ(seen(format_, x)[0].isfinite().all().item<bool>(), by_row());
    const OperandPtr weight = format_.weight({torch::ones({4, 4})});
    const Tensor dx = format_.input_gradient(*format_.gradient(x, {}), *weight, torch::kFloat);
    EXPECT_FALSE(dx[1].isfinite().any().item<bool>());
    EXPECT_EQ(dx[0].isfinite().all().item<bool>(), by_row());
  }
}

TEST_P(Float8, TakesNoRows) {
  const OperandPtr weight = format_.weight({torch::ones({5, 4})});
  const OperandPtr x = format_.input(torch::zeros({0, 4})),
                   g = format_.gradient(torch::zeros({0, 5}), {});
  EXPECT_EQ(format_.forward(*x, *weight).sizes(), (std::vector<std::int64_t>{0, 5}));
  EXPECT_EQ(format_.input_gradient(*g, *weight, torch::kFloat).sizes(),
            (std::vector<std::int64_t>{0, 4}));
}

TEST_P(Float8, TakesAgainWhatItKept) {
  torch::manual_seed(3);
  const Tensor a = spread({6, 5}), b = spread({3, 5}), x = spread({4, 5});  // weights lie apart
  const OperandPtr weight = format_.weight({a, b});
  const OperandPtr again = format_.weight({a, b}, weight->kept());
  EXPECT_TRUE(format_.forward(*format_.input(x), *again)
                  .equal(format_.forward(*format_.input(x), *weight)));
  EXPECT_TRUE(seen(format_, x).equal(seen(format_, format_.input(x)->kept().at(0))));
}

// A row of large numbers takes none of the range of another one where each has its scale.
TEST_P(Float8, ScalesOfRowsKeepSmallRows) {
  const Tensor x = torch::tensor({{1e6, 3e5}, {1.0, 0.3}}, torch::kFloat);
  const Tensor small = seen(format_, x)[1];
  EXPECT_EQ(small.ne(0).all().item<bool>(), by_row()) << small;
}

INSTANTIATE_TEST_SUITE_P(Ways, Float8,
                         testing::Combine(testing::Values(ComputeType::kFloat8,
                                                          ComputeType::kFloat8Rows),
                                          testing::Values("native", "upcast")),
                         [](const auto& param_info) {
                           return std::string(std::get<0>(param_info.param) == ComputeType::kFloat8
                                                  ? "tensor_"
                                                  : "rows_") +
                                  std::get<1>(param_info.param);
                         });

}  // namespace
}  // namespace halftone::float8_format_test
