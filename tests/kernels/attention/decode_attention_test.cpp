// SPDX-License-Identifier: Apache-2.0
#include "halftone/kernels/attention/decode_attention.h"

#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "halftone/kernels/common/simd_impl.h"
#include "support/instruction_sets.h"
#include "support/on_devices.h"

namespace halftone::decode_attention_test {
namespace {

using torch::ScalarType;
using torch::Tensor;

Tensor definition(const Tensor& q, const Tensor& k, const Tensor& v) {
  const std::int64_t repeat = q.size(1) / k.size(1);
  const Tensor keys = k.to(torch::kDouble).repeat_interleave(repeat, 1);
  const Tensor values = v.to(torch::kDouble).repeat_interleave(repeat, 1);
  const Tensor scores = q.to(torch::kDouble).matmul(keys.transpose(-1, -2)) /
                        std::sqrt(static_cast<double>(q.size(-1)));
  return scores.softmax(-1).matmul(values);
}

struct Case {
  std::int64_t batch, heads, key_heads, steps, size;
};

/// The filled part of a cache: rows of a head lie together, heads lie `room` rows apart.
Tensor cached(const Case& c, ScalarType dtype, std::int64_t room = 3) {
  return torch::randn({c.batch, c.key_heads, c.steps + room, c.size})
      .to(dtype)
      .narrow(2, 0, c.steps);
}

TEST(DecodeAttention, EqualsTheDefinition) {
  const torch::NoGradGuard no_grad;
  torch::manual_seed(1);
  const Case cases[] = {{1, 1, 1, 1, 1},   {1, 8, 2, 5, 96},   {2, 4, 4, 33, 16}, {1, 5, 1, 17, 13},
                        {2, 18, 2, 40, 7}, {1, 8, 2, 300, 64}, {3, 3, 1, 16, 100}};
  test::for_each_instruction_set([&] {
    for (const Case& c : cases) {
      for (const ScalarType dtype : {torch::kFloat, torch::kBFloat16, torch::kHalf}) {
        const Tensor q = 3 * torch::randn({c.batch, c.heads, 1, c.size});
        const Tensor k = cached(c, dtype), v = cached(c, dtype);
        ASSERT_EQ(takes_decode_attention(q, k, v, dtype), has_simd_kernels());
        if (!has_simd_kernels()) continue;
        const Tensor out = decode_attention(q, k, v, dtype);
        ASSERT_EQ(out.scalar_type(), dtype);
        ASSERT_EQ(out.sizes(), q.sizes());
        const Tensor exact = definition(q.to(dtype), k, v);
        const double relative = dtype == torch::kFloat  ? 1e-6
                                : dtype == torch::kHalf ? 0x1p-11
                                                        : 0x1p-8;
        const Tensor allowed = exact.abs() * relative + 1e-5;
        EXPECT_TRUE(((out.to(torch::kDouble) - exact).abs() <= allowed).all().item<bool>())
            << c.steps << " " << c.size << " " << dtype;
      }
    }
  });
}

TEST(DecodeAttention, TakesValuesInTheLayoutOfAProjection) {
  const torch::NoGradGuard no_grad;
  torch::manual_seed(2);
  const Tensor q = torch::randn({1, 9, 4, 16}).transpose(1, 2).narrow(2, 8, 1);
  const Tensor k = torch::randn({1, 9, 2, 16}).transpose(1, 2);
  const Tensor v = torch::randn({1, 9, 2, 48}).transpose(1, 2).narrow(3, 5, 16);
  if (!takes_decode_attention(q, k, v, torch::kFloat)) GTEST_SKIP() << "neither AVX2 nor NEON";
  const Tensor error =
      decode_attention(q, k, v, torch::kFloat).to(torch::kDouble) - definition(q, k, v);
  EXPECT_LT(error.abs().max().item<double>(), 1e-5);
}

TEST(DecodeAttention, HoldsWhereScoresAreFarApart) {
  const torch::NoGradGuard no_grad;
  if (!has_simd_kernels()) GTEST_SKIP() << "neither AVX2 nor NEON";
  const Tensor q = torch::full({1, 1, 1, 1}, 1000.0);
  const Tensor k = torch::tensor({-1.0F, 0.5F, 1.0F, -3.0F}).view({1, 1, 4, 1});
  const Tensor v = torch::tensor({1.0F, 2.0F, 3.0F, 4.0F}).view({1, 1, 4, 1});
  EXPECT_EQ(decode_attention(q, k, v, torch::kFloat).item<double>(), 3.0);
  EXPECT_EQ(decode_attention(-q, k, v, torch::kFloat).item<double>(), 4.0);
}

TEST(DecodeAttention, InfAndNanAreNotHidden) {
  const torch::NoGradGuard no_grad;
  if (!has_simd_kernels()) GTEST_SKIP() << "neither AVX2 nor NEON";
  torch::manual_seed(3);
  const double infinity = std::numeric_limits<double>::infinity();
  for (const double bad : {infinity, -infinity, std::numeric_limits<double>::quiet_NaN()}) {
    for (const std::int64_t step : {0, 9, 18}) {
      const Tensor q = torch::rand({1, 4, 1, 8}) + 0.5, k = torch::randn({1, 2, 19, 8});
      const Tensor v = torch::randn({1, 2, 19, 8});
      for (const bool in_key : {true, false}) {
        Tensor keys = k.clone(), values = v.clone();
        (in_key ? keys : values).index_put_({0, 1, step, 2}, bad);
        const Tensor out = decode_attention(q, keys, values, torch::kFloat).to(torch::kDouble);
        EXPECT_TRUE(torch::allclose(out, definition(q, keys, values), 1e-5, 1e-5,
                                    /*equal_nan=*/true))
            << bad << " at " << step << (in_key ? " in a key" : " in a value");
      }
    }
  }
}

TEST(DecodeAttention, GivesTheSameBitsWithAnyNumberOfThreads) {
  const torch::NoGradGuard no_grad;
  torch::manual_seed(4);
  const Case c{2, 8, 4, 700, 64};
  const Tensor q = torch::randn({c.batch, c.heads, 1, c.size});
  const Tensor k = cached(c, torch::kFloat), v = cached(c, torch::kFloat);
  if (!has_simd_kernels()) GTEST_SKIP() << "neither AVX2 nor NEON";
  const int threads = at::get_num_threads();
  std::vector<Tensor> results;
  for (const int count : {1, 2, 3}) {
    at::set_num_threads(count);
    results.push_back(decode_attention(q, k, v, torch::kFloat));
  }
  at::set_num_threads(threads);
  EXPECT_TRUE(results[0].equal(results[1]) && results[0].equal(results[2]));
}

class DecodeAttentionOn : public test::OnDevices {};

TEST_P(DecodeAttentionOn, EqualsTheDefinition) {
  const torch::NoGradGuard no_grad;
  torch::manual_seed(6);
  for (const Case& c : {Case{1, 8, 2, 5, 96}, {2, 4, 4, 33, 16}, {1, 5, 1, 17, 13}}) {
    const Tensor q = torch::randn({c.batch, c.heads, 1, c.size});
    const Tensor k = cached(c, torch::kFloat), v = cached(c, torch::kFloat);
    const Tensor out = decode_attention(here(q), here(k), here(v), torch::kFloat);
    EXPECT_EQ(out.device().type(), device().type());
    EXPECT_LT((out.cpu().to(torch::kDouble) - definition(q, k, v)).abs().max().item<double>(),
              1e-5);
  }
}

HALFTONE_ON_DEVICES(DecodeAttentionOn);

TEST(DecodeAttention, LeavesTheRestToLibTorch) {
  const Tensor q = torch::zeros({1, 2, 1, 4});
  EXPECT_FALSE(takes_decode_attention(q, q, q, torch::kFloat)) << "autograd is on";
  const torch::NoGradGuard no_grad;
  EXPECT_FALSE(takes_decode_attention(torch::zeros({1, 2, 2, 4}), q, q, torch::kFloat));
  EXPECT_FALSE(takes_decode_attention(q, q, q, torch::kBFloat16));
  EXPECT_FALSE(takes_decode_attention(q, q.narrow(2, 0, 0), q, torch::kFloat));
  EXPECT_FALSE(takes_decode_attention(q, q, q.transpose(1, 3), torch::kFloat));
  const Tensor other = torch::zeros({1, 3, 1, 4});
  EXPECT_THROW(decode_attention(q, other, other, torch::kFloat), c10::Error);
}

}  // namespace
}  // namespace halftone::decode_attention_test
