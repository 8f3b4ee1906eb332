// SPDX-License-Identifier: Apache-2.0
#include "halftone/kernels/gemm/int8_weights.h"

#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <limits>
#include <random>

#include "halftone/kernels/common/simd_impl.h"
#include "halftone/kernels/gemm/int8_gemm.h"
#include "halftone/kernels/gemm/int8_weights_impl.h"
#include "support/instruction_sets.h"

namespace halftone::int8_weights_test {
namespace {

using torch::ScalarType;
using torch::Tensor;

/// One scale a row, by an element-wise definition in fp64.
struct Integers {
  Tensor values;  // fp64
  Tensor scales;  // fp32
};

Integers integers_of(const Tensor& matrix) {
  const Tensor wide = matrix.to(torch::kFloat);
  const Tensor top = wide.abs().amax(1, /*keepdim=*/true).clamp_min(1e-30);
  return {(wide * (127.0F / top)).to(torch::kDouble).round().clamp(-127, 127),
          (top / 127.0F).squeeze(1)};
}

/// The product by integer sums in fp64, which are exact, and the two scales in fp32.
Tensor expected_product(const Tensor& x, const Tensor& weight, ScalarType dtype) {
  const Integers left = integers_of(x), right = integers_of(weight);
  const Tensor sums = left.values.mm(right.values.t()).to(torch::kFloat);
  return (sums * (right.scales.unsqueeze(0) * left.scales.unsqueeze(1))).to(dtype);
}

TEST(Int8Weights, GiveTheExactProductForEverySizeDtypeAndInstructionSet) {
  const torch::NoGradGuard no_grad;
  torch::manual_seed(1);
  const std::int64_t sizes[][3] = {{1, 1, 1},    {1, 7, 3},    {2, 16, 17},  {3, 64, 5},
                                   {9, 100, 33}, {5, 129, 16}, {17, 77, 40}, {1, 1411, 70}};
  const auto check = [&] {
    for (const auto& [rows, in, out] : sizes) {
      for (const ScalarType dtype : {torch::kFloat, torch::kBFloat16, torch::kHalf}) {
        const Tensor x = torch::randn({rows, in}).to(dtype), w = torch::randn({out, in}).to(dtype);
        const Tensor y = int8_weights_linear(x, {quantize_weights(w)}, dtype);
        EXPECT_EQ(y.scalar_type(), dtype);
        EXPECT_TRUE(y.equal(expected_product(x, w, dtype))) << rows << ' ' << in << ' ' << out;
      }
    }
  };
  check();
  test::for_each_instruction_set(check);
}

/// Both loops on the same bytes, against sums in 64 bits.
TEST(Int8Weights, BothLoopsGiveEveryIntegerSum) {
  std::mt19937 random(3);
  std::uniform_int_distribution<int> byte(-127, 127);
  for (const std::int64_t stride : {64, 128, 192, 1408}) {
    for (const std::int64_t x_rows : {1, 2, 3, 7, 8}) {
      for (const std::int64_t weight_rows : {1, 3, 4, 5, 16}) {
        std::vector<std::int8_t> x(static_cast<std::size_t>(x_rows * stride));
        std::vector<std::int8_t> weight(static_cast<std::size_t>(weight_rows * stride));
        for (std::int8_t& value : x) value = static_cast<std::int8_t>(byte(random));
        for (std::int8_t& value : weight) value = static_cast<std::int8_t>(byte(random));
        std::vector<std::int32_t> x_sums(static_cast<std::size_t>(x_rows));
        for (std::int64_t i = 0; i < x_rows * stride; ++i) x_sums[i / stride] += x[i];
        const Int8Block block{.x = x.data(),
                              .x_sums = x_sums.data(),
                              .x_scales = nullptr,
                              .x_rows = x_rows,
                              .weight = weight.data(),
                              .weight_scales = nullptr,
                              .weight_rows = weight_rows,
                              .stride = stride};
        const auto expect_sums = [&](Int8SumsFunction* function) {
          std::int32_t sums[kInt8InputRows * kInt8WeightRows] = {};
          function(block, sums);
          for (std::int64_t r = 0; r < x_rows; ++r)
            for (std::int64_t c = 0; c < weight_rows; ++c) {
              std::int64_t exact = 0;
              for (std::int64_t i = 0; i < stride; ++i)
                exact += std::int64_t{x[r * stride + i]} * weight[c * stride + i];
              ASSERT_EQ(sums[r * kInt8WeightRows + c], exact) << r << ' ' << c << ' ' << stride;
            }
        };
        if (has_int8_vnni()) expect_sums(int8_sums_vnni);
        expect_sums(int8_sums);
        test::for_each_instruction_set([&] { expect_sums(int8_sums); });
      }
    }
  }
}

TEST(Int8Weights, DoNotSaturateWhereEveryProductIsTheLargest) {
  const torch::NoGradGuard no_grad;
  for (const std::int64_t depth : {1, 64, 65536}) {
    for (const double sign : {1.0, -1.0}) {
      const Tensor x = torch::full({3, depth}, sign), w = torch::full({5, depth}, 3.0);
      const Int8WeightMatrix held = quantize_weights(w);
      test::for_each_instruction_set([&] {
        EXPECT_TRUE(int8_weights_linear(x, {held}, torch::kFloat)
                        .equal(expected_product(x, w, torch::kFloat)));
      });
      EXPECT_TRUE(int8_weights_linear(x, {held}, torch::kFloat)
                      .equal(expected_product(x, w, torch::kFloat)));
    }
  }
  EXPECT_ANY_THROW(quantize_weights(torch::zeros({1, kMaxInt8Depth + 1})));
}

TEST(Int8Weights, AGroupGivesTheBitsOfItsMembersAndOfSingleRows) {
  const torch::NoGradGuard no_grad;
  torch::manual_seed(3);
  const Tensor x = torch::randn({2, 7, 150});
  std::vector<Int8WeightMatrix> weights;
  for (const std::int64_t out : {40, 1, 23})
    weights.push_back(quantize_weights(torch::randn({out, 150})));
  const Tensor group = int8_weights_linear(x, weights, torch::kFloat);
  ASSERT_EQ(group.sizes(), (std::vector<std::int64_t>{2, 7, 64}));
  const std::vector<Tensor> parts = group.split_with_sizes({40, 1, 23}, -1);
  for (std::size_t i = 0; i < weights.size(); ++i)
    for (std::int64_t r = 0; r < 7; ++r)
      EXPECT_TRUE(parts[i][1][r].equal(int8_weights_linear(x[1][r], {weights[i]}, torch::kFloat)));
}

TEST(Int8Weights, GiveTheSameBitsWithAnyNumberOfThreads) {
  const torch::NoGradGuard no_grad;
  torch::manual_seed(4);
  const Tensor x = torch::randn({1, 500});
  const std::vector<Int8WeightMatrix> weights{quantize_weights(torch::randn({700, 500})),
                                              quantize_weights(torch::randn({301, 500}))};
  const int threads = at::get_num_threads();
  std::vector<Tensor> results;
  for (const int count : {1, 2, 3}) {
    at::set_num_threads(count);
    results.push_back(int8_weights_linear(x, weights, torch::kFloat));
  }
  at::set_num_threads(threads);
  EXPECT_TRUE(results[0].equal(results[1]) && results[0].equal(results[2]));
}

TEST(Int8Weights, MakeNanOfTheRowsThatAreNotFinite) {
  const torch::NoGradGuard no_grad;
  for (const double bad :
       {std::numeric_limits<double>::infinity(), -std::numeric_limits<double>::infinity(),
        std::numeric_limits<double>::quiet_NaN()}) {
    Tensor x = torch::ones({3, 67}), w = torch::ones({5, 67});
    x[1][66] = bad;
    w[3][0] = bad;
    test::for_each_instruction_set([&] {
      const Tensor y = int8_weights_linear(x, {quantize_weights(w)}, torch::kFloat);
      Tensor nan = torch::zeros({3, 5}, torch::kBool);
      nan[1].fill_(true);
      nan.select(1, 3).fill_(true);
      EXPECT_TRUE(y.isnan().equal(nan)) << y;
      EXPECT_TRUE(y.masked_select(~nan).allclose(torch::full({8}, 67.0F)));
    });
  }
}

TEST(Int8Weights, OfNothingAreZero) {
  const torch::NoGradGuard no_grad;
  const auto product = [](std::int64_t rows, std::int64_t in, std::int64_t out) {
    return int8_weights_linear(torch::ones({rows, in}), {quantize_weights(torch::ones({out, in}))},
                               torch::kFloat);
  };
  EXPECT_TRUE(product(2, 0, 3).equal(torch::zeros({2, 3})));
  EXPECT_EQ(product(0, 4, 3).sizes(), (std::vector<std::int64_t>{0, 3}));
  EXPECT_EQ(product(2, 4, 0).sizes(), (std::vector<std::int64_t>{2, 0}));
  EXPECT_TRUE(int8_weights_linear(torch::zeros({2, 4}), {quantize_weights(torch::zeros({3, 4}))},
                                  torch::kFloat)
                  .equal(torch::zeros({2, 3})));
}

TEST(Int8Weights, HaveTheIntegersOfTheTrainingForwardPass) {
  const torch::NoGradGuard no_grad;
  torch::manual_seed(5);
  const Tensor x = torch::randn({4, 90}), w = torch::randn({6, 90});
  const Int8WeightMatrix held = quantize_weights(w);
  EXPECT_TRUE(held.scales.equal(quantize_right(w, {}).scales));
  EXPECT_TRUE(held.integers.to(torch::kDouble).equal(integers_of(w).values));
  if (int8_left_limit() == 127) {
    EXPECT_TRUE(int8_weights_linear(x, {held}, torch::kFloat)
                    .equal(int8_gemm(quantize_left(x, {}), quantize_right(w, {}))));
  }
}

TEST(Int8Weights, LieInThePlaceThatIsGivenAndTakeCopies) {
  const torch::NoGradGuard no_grad;
  torch::manual_seed(6);
  const Tensor x = torch::randn({2, 70}), w = torch::randn({3, 70});
  EXPECT_EQ(int8_weights_bytes(3, 70), 3 * 128);
  const Tensor place = torch::full({3 * 128}, 7, torch::kUInt8);
  const Int8WeightMatrix held = quantize_weights(w, place);
  EXPECT_EQ(held.integers.data_ptr(), place.data_ptr());
  EXPECT_EQ(place.view({3, 128}).narrow(1, 70, 58).abs().max().item<int>(), 0);
  const Tensor y = int8_weights_linear(x, {held}, torch::kFloat);
  const Int8WeightMatrix dense{held.integers.contiguous(), held.scales};
  EXPECT_TRUE(int8_weights_linear(x, {dense}, torch::kFloat).equal(y));
  EXPECT_ANY_THROW(int8_weights_linear(torch::zeros({2, 69}), {held}, torch::kFloat));
}

}  // namespace
}  // namespace halftone::int8_weights_test
