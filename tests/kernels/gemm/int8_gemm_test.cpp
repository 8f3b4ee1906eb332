// SPDX-License-Identifier: Apache-2.0
#include "halftone/kernels/gemm/int8_gemm.h"

#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <bit>
#include <limits>

#include "halftone/core/random.h"
#include "halftone/kernels/gemm/int8_reference.h"
#include "halftone/kernels/optimizer/adamw_impl.h"

namespace halftone::int8_gemm_test {
namespace {

using torch::Tensor;

constexpr double kInfinity = std::numeric_limits<double>::infinity();

Tensor wide(const Tensor& x) { return x.to(torch::kDouble); }

/// The integers of a matrix (rows, depth), by an element-wise definition in fp64.
Tensor nearest_integers(const Tensor& matrix, double largest) {
  const Tensor top = matrix.abs().amax(1, /*keepdim=*/true).clamp_min(1e-30);
  return wide(matrix * (static_cast<float>(largest) / top)).round().clamp(-largest, largest);
}

/// The integers that `matrix` holds: its bytes without the offset, if FBGEMM is to read them.
Tensor integers_of(const Int8Matrix& matrix, bool left) {
  if (!matrix.sums.defined()) return wide(matrix.quads);
  const Tensor shaped = matrix.depth_major ? matrix.quads.t() : matrix.quads;
  const Tensor quads = torch::empty(shaped.sizes(), shaped.options()).copy_(shaped);
  const Tensor bytes = quads.view(left ? torch::kUInt8 : torch::kInt8).narrow(1, 0, matrix.depth);
  const std::int32_t zero = !left ? 0 : int8_left_limit() == 127 ? 128 : 64;
  return wide(bytes) - zero;
}

/// The same matrix with the other dimension contiguous.
Tensor transposed_layout(const Tensor& matrix) { return matrix.t().contiguous().t(); }

void expect_exact_product(const Tensor& a, const Tensor& b) {
  const Int8Matrix left = quantize_left(a, {});
  const Int8Matrix right = quantize_right(b, {});
  const Tensor sums = integers_of(left, true).mm(integers_of(right, false).t());
  const Tensor scales = right.scales.unsqueeze(0) * left.scales.unsqueeze(1);
  const Tensor expected = sums.to(torch::kFloat) * scales;
  const Tensor product = int8_gemm(left, right);
  EXPECT_TRUE(torch::equal(product, expected))
      << a.sizes() << b.sizes() << (product - expected).abs().max();
}

TEST(Int8Gemm, IsExactForEverySizeAndLayout) {
  torch::manual_seed(1);
  const std::int64_t sizes[][3] = {{1, 1, 1},     {1, 7, 3},     {5, 1, 9},       {3, 5, 1},
                                   {7, 33, 17},   {64, 64, 64},  {65, 130, 31},   {128, 1, 128},
                                   {20, 515, 40}, {13, 1411, 6}, {300, 1030, 129}};
  for (const auto& [m, k, n] : sizes) {
    const Tensor a = torch::randn({m, k}), b = torch::randn({n, k});
    expect_exact_product(a, b);
    expect_exact_product(transposed_layout(a), b);
    expect_exact_product(a, transposed_layout(b));
    expect_exact_product(transposed_layout(a), transposed_layout(b));
    expect_exact_product(torch::stack({a, a}, 2).select(2, 0),
                         torch::cat({b, b}, 1).narrow(1, 1, k));
  }
}

TEST(Int8Gemm, TakesAndGivesMatricesOf16Bits) {
  torch::manual_seed(4);
  for (const torch::ScalarType dtype : {torch::kBFloat16, torch::kHalf}) {
    for (const std::int64_t k : {7, 64, 131}) {
      const Tensor a = torch::randn({37, k}).to(dtype), b = torch::randn({21, k}).to(dtype);
      for (const auto layout : {+[](const Tensor& x) { return x; }, transposed_layout}) {
        for (const bool stochastic : {false, true}) {
          const Int8Rounding rounding{stochastic, 9};
          const Int8Matrix left = quantize_left(layout(a), rounding);
          const Int8Matrix wide_left = quantize_left(layout(a.to(torch::kFloat)), rounding);
          EXPECT_TRUE(left.quads.equal(wide_left.quads));
          EXPECT_TRUE(left.scales.equal(wide_left.scales));
          ASSERT_EQ(left.sums.defined(), wide_left.sums.defined());
          if (left.sums.defined()) {
            EXPECT_TRUE(left.sums.equal(wide_left.sums));
          }
          const Int8Matrix right = quantize_right(layout(b), rounding);
          const Tensor narrow = int8_gemm(left, right, {}, dtype);
          EXPECT_EQ(narrow.scalar_type(), dtype);
          EXPECT_TRUE(narrow.equal(int8_gemm(left, right).to(dtype)));
        }
      }
    }
  }
  const Int8Matrix one = quantize_left(torch::ones({2, 4}), {}),
                   other = quantize_right(torch::ones({3, 4}), {});
  EXPECT_ANY_THROW(int8_gemm(one, other, torch::zeros({2, 3}).to(torch::kBFloat16)));
}

TEST(Int8Gemm, DoesNotSaturateWhereEveryProductIsTheLargest) {
  for (const std::int64_t k : {2, 64, 1024, 65536}) {
    for (const double sign : {1.0, -1.0}) {
      const Tensor a = torch::full({3, k}, 2.0F), b = torch::full({5, k}, sign * 3.0F);
      const Int8Matrix left = quantize_left(a, {}), right = quantize_right(b, {});
      EXPECT_EQ(integers_of(left, true).min().item<double>(), int8_left_limit());
      expect_exact_product(a, b);
      expect_exact_product(-a, b);
      const Tensor exact = wide(a).mm(wide(b).t());
      EXPECT_TRUE(torch::allclose(wide(int8_gemm(left, right)), exact, 1e-6));
    }
  }
}

TEST(Int8Gemm, GivesTheBitsOfTheReference) {
  torch::manual_seed(7);
  const Tensor a = torch::randn({21, 45}), b = torch::randn({13, 45});
  const Int8Rounding none, random{.stochastic = true, .stream = 11};
  for (const auto& [x, w] : {std::pair{a, b}, {transposed_layout(a), transposed_layout(b)}}) {
    for (const Int8Rounding& rounding : {none, random}) {
      const ReferenceInt8 left = quantize_reference(x, int8_left_limit(), rounding);
      const ReferenceInt8 right = quantize_reference(w, 127, rounding);
      const Int8Matrix fast_left = quantize_left(x, rounding);
      const Int8Matrix fast_right = quantize_right(w, rounding);
      EXPECT_TRUE(torch::equal(integers_of(fast_left, true), wide(left.integers)));
      EXPECT_TRUE(torch::equal(integers_of(fast_right, false), wide(right.integers)));
      EXPECT_TRUE(torch::equal(int8_gemm(fast_left, fast_right), int8_gemm_reference(left, right)));
    }
  }
}

TEST(Int8Gemm, AddsToAGivenMatrix) {
  torch::manual_seed(2);
  const Int8Matrix left = quantize_left(torch::randn({9, 40}), {});
  const Int8Matrix right = quantize_right(torch::randn({11, 40}), {});
  const Tensor start = torch::randn({9, 11});
  const Tensor into = start.clone();
  const Tensor sum = int8_gemm(left, right, into);
  EXPECT_EQ(sum.data_ptr(), into.data_ptr());
  EXPECT_TRUE(torch::equal(sum, int8_gemm(left, right) + start));
}

TEST(Int8Gemm, OfNothingIsZero) {
  for (const auto& [m, k, n] : {std::array<std::int64_t, 3>{0, 4, 3}, {3, 0, 4}, {3, 4, 0}}) {
    const Tensor product = int8_gemm(quantize_left(torch::randn({m, k}), {}),
                                     quantize_right(torch::randn({n, k}), {}));
    EXPECT_TRUE(torch::equal(product, torch::zeros({m, n})));
  }
}

TEST(Int8Gemm, RefusesWhatItCannotMultiply) {
  EXPECT_ANY_THROW(quantize_left(torch::zeros({2, 3}, torch::kDouble), {}));
  EXPECT_ANY_THROW(quantize_left(torch::zeros({6}), {}));
  EXPECT_ANY_THROW(quantize_right(torch::zeros({1, kMaxInt8Depth + 1}), {}));
  EXPECT_ANY_THROW(
      int8_gemm(quantize_left(torch::zeros({2, 3}), {}), quantize_right(torch::zeros({2, 4}), {})));
}

TEST(Int8Quantize, RoundsEachRowToTheNearest) {
  torch::manual_seed(3);
  for (const std::int64_t depth : {1, 3, 16, 37, 129}) {
    const Tensor matrix = torch::randn({21, depth}) * torch::logspace(-20, 20, 21).unsqueeze(1);
    for (const Tensor& layout : {matrix, transposed_layout(matrix)}) {
      const Int8Matrix left = quantize_left(layout, {}), right = quantize_right(layout, {});
      const double limit = int8_left_limit();
      EXPECT_TRUE(torch::equal(integers_of(left, true), nearest_integers(matrix, limit)));
      EXPECT_TRUE(torch::equal(integers_of(right, false), nearest_integers(matrix, 127)));
      if (right.sums.defined()) {
        EXPECT_TRUE(torch::equal(wide(right.sums), nearest_integers(matrix, 127).sum(1)));
      }
      EXPECT_TRUE(torch::equal(right.scales, matrix.abs().amax(1) / 127.0F));
    }
  }
}

TEST(Int8Quantize, KeepsARowOfZeros) {
  const Tensor matrix = torch::zeros({3, 10});
  for (const Tensor& layout : {matrix, transposed_layout(matrix)}) {
    const Int8Matrix right = quantize_right(layout, {.stochastic = true, .stream = 1});
    EXPECT_EQ(integers_of(right, false).abs().max().item<double>(), 0.0);
    EXPECT_TRUE(right.scales.isfinite().all().item<bool>());
  }
}

TEST(Int8Quantize, MakesNanOfTheRowsThatAreNotFinite) {
  for (const double bad : {kInfinity, -kInfinity, std::numeric_limits<double>::quiet_NaN()}) {
    for (const bool stochastic : {false, true}) {
      Tensor a = torch::ones({4, 19}), b = torch::ones({5, 19});
      a[2][17] = bad;
      b[3][0] = bad;
      for (const auto& [left, right] :
           {std::pair{a, b}, {transposed_layout(a), transposed_layout(b)}}) {
        const Tensor finite =
            int8_gemm(quantize_left(left, {stochastic, 1}), quantize_right(right, {stochastic, 1}))
                .isfinite();
        Tensor expected = torch::ones({4, 5}, torch::kBool);
        expected[2] = false;
        expected.select(1, 3).fill_(false);
        EXPECT_TRUE(torch::equal(finite, expected));
      }
    }
  }
}

TEST(Int8Quantize, RoundsStochasticallyByTheDocumentedBits) {
  torch::manual_seed(4);
  const Tensor matrix = torch::randn({7, 45});
  constexpr std::uint64_t kStream = 99;
  const std::uint64_t word = random_word(kStream, 0);
  const std::uint32_t key[2] = {static_cast<std::uint32_t>(word),
                                static_cast<std::uint32_t>(word >> 32U)};
  const Tensor scaled = matrix * (127.0F / matrix.abs().amax(1, /*keepdim=*/true));
  const Tensor by_rows =
      integers_of(quantize_right(matrix, {.stochastic = true, .stream = kStream}), false);
  const Tensor by_columns = integers_of(
      quantize_right(transposed_layout(matrix), {.stochastic = true, .stream = kStream}), false);
  const auto expected = [&](std::int64_t r, std::int64_t c, std::uint32_t index) {
    const float uniform = static_cast<float>(rounding_bits(index, key) >> 8U) * 0x1p-24F;
    return std::clamp(std::floor(scaled[r][c].item<float>() + uniform), -127.0F, 127.0F);
  };
  for (std::int64_t r = 0; r < 7; ++r) {
    for (std::int64_t c = 0; c < 45; ++c) {
      // Position in memory order: the transposed layout is read column by column.
      EXPECT_EQ(by_rows[r][c].item<float>(),
                expected(r, c, static_cast<std::uint32_t>(r * 45 + c)));
      EXPECT_EQ(by_columns[r][c].item<float>(),
                expected(r, c, static_cast<std::uint32_t>(c * 7 + r)));
    }
  }
}

TEST(Int8Quantize, StochasticRoundingKeepsTheMean) {
  torch::manual_seed(5);
  const Tensor row = torch::cat({torch::ones({1}), torch::rand({63}) * 0.2 - 0.1});
  constexpr std::int64_t kDraws = 20000;
  const Tensor matrix = row.expand({kDraws, 64}).contiguous();
  const Int8Matrix drawn = quantize_right(matrix, {.stochastic = true, .stream = 7});
  const Tensor exact = wide(row) * 127;
  const Tensor fraction = exact - exact.floor();
  const Tensor deviation = (fraction * (1 - fraction) / kDraws).sqrt();
  const Tensor error = (integers_of(drawn, false).mean(0) - exact).abs();
  EXPECT_TRUE((error <= 5 * deviation + 1e-4).all().item<bool>()) << error.max();
}

TEST(Int8Quantize, GivesTheSameBitsWithAnyNumberOfThreads) {
  torch::manual_seed(6);
  const Tensor a = torch::randn({150, 100}), b = torch::randn({90, 100});
  const int threads = at::get_num_threads();
  std::vector<Tensor> results;
  for (const int count : {1, 2, 3}) {
    at::set_num_threads(count);
    results.push_back(int8_gemm(quantize_left(a, {true, 1}), quantize_right(b, {true, 2})));
    results.push_back(int8_gemm(quantize_left(transposed_layout(a), {true, 1}),
                                quantize_right(transposed_layout(b), {true, 2})));
  }
  at::set_num_threads(threads);
  EXPECT_TRUE(torch::equal(results[0], results[2]) && torch::equal(results[0], results[4]));
  EXPECT_TRUE(torch::equal(results[1], results[3]) && torch::equal(results[1], results[5]));
  EXPECT_FALSE(torch::equal(results[0],
                            int8_gemm(quantize_left(a, {true, 3}), quantize_right(b, {true, 2}))));
}

}  // namespace
}  // namespace halftone::int8_gemm_test
