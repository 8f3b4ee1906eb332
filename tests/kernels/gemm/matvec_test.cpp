// SPDX-License-Identifier: Apache-2.0
#include "halftone/kernels/gemm/matvec.h"

#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <limits>

#include "halftone/kernels/common/simd_impl.h"
#include "support/instruction_sets.h"

namespace halftone::matvec_test {
namespace {

using torch::ScalarType;
using torch::Tensor;

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

/// Half a unit in the last place of the result's format; of fp32, with room for the order of sums.
double rounding_of(ScalarType dtype) {
  if (dtype == torch::kBFloat16) return 0x1p-8;
  return dtype == torch::kHalf ? 0x1p-11 : 1e-6;
}

/// x W^T of operands rounded to `dtype`, held to fp64 within the rounding of sums and result.
void expect_product(const Tensor& y, const Tensor& x, const Tensor& weight, ScalarType dtype) {
  const Tensor left = x.to(dtype).to(torch::kDouble);
  const Tensor right = weight.to(dtype).to(torch::kDouble);
  const Tensor exact = left.matmul(right.t());
  const Tensor magnitude = left.abs().matmul(right.abs().t());
  ASSERT_EQ(y.scalar_type(), dtype);
  ASSERT_EQ(y.sizes(), exact.sizes());
  const Tensor allowed = exact.abs() * rounding_of(dtype) + magnitude * 1e-6;
  EXPECT_TRUE(((y.to(torch::kDouble) - exact).abs() <= allowed).all().item<bool>())
      << x.sizes() << weight.sizes() << dtype;
}

TEST(Matvec, EqualsTheExactProductForEverySizeAndDtype) {
  const torch::NoGradGuard no_grad;
  torch::manual_seed(1);
  const std::int64_t sizes[][3] = {{1, 1, 1},    {1, 7, 3},    {2, 16, 17}, {3, 64, 5},
                                   {4, 100, 33}, {5, 129, 16}, {8, 77, 40}, {1, 1411, 70}};
  test::for_each_instruction_set([&] {
    for (const auto& [rows, in, out] : sizes) {
      for (const ScalarType dtype : {torch::kFloat, torch::kBFloat16, torch::kHalf}) {
        for (const ScalarType held : {torch::kFloat, dtype}) {
          const Tensor x = torch::randn({rows, in}), w = torch::randn({out, in}).to(held);
          ASSERT_EQ(takes_matvec(x, {w}, dtype), has_simd_kernels());
          if (!has_simd_kernels()) continue;
          expect_product(matvec(x, {w}, dtype), x, w, dtype);
          expect_product(matvec(x.to(dtype), {w}, dtype), x, w, dtype);
        }
      }
    }
  });
}

TEST(Matvec, TakesWeightsThatAreUnalignedOrRowsOfAnother) {
  const torch::NoGradGuard no_grad;
  torch::manual_seed(2);
  for (const ScalarType dtype : {torch::kFloat, torch::kBFloat16, torch::kHalf}) {
    const Tensor wide = torch::randn({9, 41}).to(dtype);
    const Tensor inner = wide.narrow(1, 3, 37).narrow(0, 1, 7);
    const Tensor x = torch::randn({2, 3, 80}).to(dtype).slice(2, 1, 75, 2);
    if (!takes_matvec(x, {inner}, dtype)) GTEST_SKIP() << "neither AVX2 nor NEON";
    expect_product(matvec(x, {inner}, dtype), x, inner, dtype);
  }
}

TEST(Matvec, AGroupGivesTheBitsOfItsMembersAndOfSingleRows) {
  const torch::NoGradGuard no_grad;
  torch::manual_seed(3);
  const Tensor x = torch::randn({7, 150});
  std::vector<Tensor> weights;
  for (const std::int64_t out : {40, 1, 23}) weights.push_back(torch::randn({out, 150}));
  if (!takes_matvec(x, weights, torch::kFloat)) GTEST_SKIP() << "neither AVX2 nor NEON";
  const std::vector<Tensor> group =
      matvec(x, weights, torch::kFloat).split_with_sizes({40, 1, 23}, -1);
  for (std::size_t i = 0; i < weights.size(); ++i) {
    EXPECT_TRUE(group[i].equal(matvec(x, {weights[i]}, torch::kFloat)));
    for (std::int64_t r = 0; r < 7; ++r)
      EXPECT_TRUE(group[i][r].equal(matvec(x[r], {weights[i]}, torch::kFloat)));
  }
}

TEST(Matvec, GivesTheSameBitsWithAnyNumberOfThreads) {
  const torch::NoGradGuard no_grad;
  torch::manual_seed(4);
  const Tensor x = torch::randn({1, 500});
  const std::vector<Tensor> weights{torch::randn({700, 500}), torch::randn({301, 500})};
  if (!takes_matvec(x, weights, torch::kFloat)) GTEST_SKIP() << "neither AVX2 nor NEON";
  const int threads = at::get_num_threads();
  std::vector<Tensor> results;
  for (const int count : {1, 2, 3}) {
    at::set_num_threads(count);
    results.push_back(matvec(x, weights, torch::kFloat));
  }
  at::set_num_threads(threads);
  EXPECT_TRUE(results[0].equal(results[1]) && results[0].equal(results[2]));
}

TEST(Matvec, InfAndNanComeThroughWhereTheyBelong) {
  const torch::NoGradGuard no_grad;
  for (const ScalarType dtype : {torch::kFloat, torch::kBFloat16, torch::kHalf}) {
    for (const double bad : {kInfinity, -kInfinity, kNan}) {
      for (const std::int64_t at : {0, 18, 66}) {  // in the unrolled loop, a vector, the rest
        Tensor w = torch::ones({5, 67});
        w[3][at] = bad;
        const Tensor x = torch::ones({2, 67});
        if (!takes_matvec(x, {w}, dtype)) GTEST_SKIP() << "neither AVX2 nor NEON";
        const Tensor y = matvec(x, {w}, dtype).to(torch::kDouble);
        Tensor expected = torch::full({2, 5}, 67.0, torch::kDouble);
        expected.select(1, 3).fill_(bad);
        EXPECT_TRUE(torch::allclose(y, expected, 0, 0, /*equal_nan=*/true)) << y;
        Tensor zero = torch::ones({1, 67});
        zero[0][at] = 0;
        EXPECT_TRUE(matvec(zero, {w}, dtype)[0][3].isnan().item<bool>());
      }
    }
  }
  // Sums beyond the format's range overflow as they do in a GEMM.
  const Tensor big = torch::full({1, 4}, 200.0), y = matvec(big, {big}, torch::kHalf);
  EXPECT_EQ(y.item<double>(), kInfinity);
}

TEST(Matvec, OfNothingIsZero) {
  const torch::NoGradGuard no_grad;
  if (!has_simd_kernels()) GTEST_SKIP() << "neither AVX2 nor NEON";
  const Tensor nothing = torch::zeros({2, 0});
  EXPECT_TRUE(matvec(nothing, {torch::zeros({3, 0})}, torch::kFloat).equal(torch::zeros({2, 3})));
  EXPECT_EQ(matvec(torch::ones({2, 4}), {torch::zeros({0, 4})}, torch::kFloat).sizes(),
            (std::vector<std::int64_t>{2, 0}));
}

TEST(Matvec, LeavesTheRestToAGemm) {
  const Tensor x = torch::zeros({1, 4}), w = torch::zeros({5, 4});
  EXPECT_FALSE(takes_matvec(x, {w}, torch::kFloat)) << "autograd is on";
  const torch::NoGradGuard no_grad;
  EXPECT_FALSE(takes_matvec(torch::zeros({9, 4}), {w}, torch::kFloat));
  EXPECT_FALSE(takes_matvec(torch::zeros({0, 4}), {w}, torch::kFloat));
  EXPECT_FALSE(takes_matvec(x, {torch::zeros({4, 5}).t()}, torch::kFloat));
  EXPECT_FALSE(takes_matvec(x.to(torch::kDouble), {w.to(torch::kDouble)}, torch::kDouble));
  EXPECT_FALSE(takes_matvec(x, {w, w.to(torch::kBFloat16)}, torch::kHalf));
  EXPECT_THROW(matvec(torch::zeros({9, 4}), {w}, torch::kFloat), c10::Error);
  EXPECT_THROW(matvec(torch::zeros({1, 3}), {w}, torch::kFloat), c10::Error);
}

}  // namespace
}  // namespace halftone::matvec_test
