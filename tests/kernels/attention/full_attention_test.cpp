// SPDX-License-Identifier: Apache-2.0
// full_attention() of kernels/attention/attention.h.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "halftone/autocast/autocast.h"
#include "halftone/kernels/attention/attention.h"
#include "support/fused_op.h"
#include "support/gemm_config_scope.h"
#include "support/on_devices.h"

namespace halftone::full_attention_test {
namespace {

using torch::Tensor;

/// In fp64, batch entry by batch entry, over the keys that are there.
Tensor definition(const Tensor& q, const Tensor& k, const Tensor& v,
                  const std::vector<std::int64_t>& lengths) {
  std::vector<Tensor> entries;
  for (std::int64_t b = 0; b < q.size(0); ++b) {
    const std::int64_t count = lengths[static_cast<std::size_t>(b)];
    const std::int64_t repeat = q.size(1) / k.size(1);
    const Tensor keys = k[b].narrow(1, 0, count).to(torch::kDouble).repeat_interleave(repeat, 0);
    const Tensor values = v[b].narrow(1, 0, count).to(torch::kDouble).repeat_interleave(repeat, 0);
    const Tensor scores = q[b].to(torch::kDouble).matmul(keys.transpose(-1, -2)) /
                          std::sqrt(static_cast<double>(q.size(-1)));
    entries.push_back(scores.softmax(-1).matmul(values));
  }
  return torch::stack(entries);
}

double tolerance_of(torch::ScalarType dtype) {
  return dtype == torch::kFloat ? 1e-5 : dtype == torch::kHalf ? 3e-3 : 2e-2;
}

using FullAttentionOn = test::OnDevices;
HALFTONE_ON_DEVICES(FullAttentionOn);

struct Sizes {
  std::int64_t heads, kv_heads, steps, keys, size;
};

TEST_P(FullAttentionOn, EqualsTheDefinitionWithItsGradients) {
  torch::manual_seed(1);
  const std::vector<Sizes> cases{
      {4, 4, 7, 7, 16}, {4, 2, 33, 5, 8}, {3, 3, 1, 19, 12}, {2, 1, 65, 130, 5}};
  for (const char* path : {"native", "upcast"}) {
    const test::GemmConfigScope ways(path);
    for (const auto dtype : {torch::kFloat, torch::kBFloat16, torch::kHalf}) {
      for (const auto& [heads, kv_heads, steps, keys, size] : cases) {
        for (const bool padded : {false, true}) {
          const std::vector<std::int64_t> counts{keys, padded ? (keys + 1) / 2 : keys};
          std::vector<Tensor> ours, theirs;
          for (const auto& [h, t] : {std::pair{heads, steps}, {kv_heads, keys}, {kv_heads, keys}}) {
            const Tensor values = torch::randn({2, h, t, size}).to(dtype);
            ours.push_back(here(values).requires_grad_());
            theirs.push_back(values.detach().to(torch::kDouble).requires_grad_());
          }
          const Tensor lengths = padded ? here(torch::tensor(counts)) : Tensor();
          const Tensor out = full_attention(ours[0], ours[1], ours[2], lengths);
          const Tensor expected = definition(theirs[0], theirs[1], theirs[2], counts);
          EXPECT_EQ(out.scalar_type(), dtype);
          EXPECT_LT(test::relative_error(out, expected), tolerance_of(dtype));
          const Tensor g = torch::randn(expected.sizes()).to(dtype);
          out.backward(here(g));
          expected.backward(g.to(torch::kDouble));
          for (std::size_t i = 0; i < ours.size(); ++i)
            EXPECT_LT(test::relative_error(ours[i].grad(), theirs[i].grad()), tolerance_of(dtype));
        }
      }
    }
  }
}

TEST_P(FullAttentionOn, PaddingTakesNoPart) {
  torch::manual_seed(2);
  const Tensor q = here(torch::randn({2, 2, 3, 8})), k = here(torch::randn({2, 2, 6, 8}));
  const Tensor lengths = here(torch::tensor({4, 6}));
  Tensor other = k.clone();
  other[0].narrow(1, 4, 2).mul_(1000);
  const Tensor value = k.clone().requires_grad_();
  const Tensor out = full_attention(q, k, value, lengths);
  EXPECT_TRUE(full_attention(q, other, other, lengths).equal(out));
  out.sum().backward();
  EXPECT_EQ(value.grad()[0].narrow(1, 4, 2).abs().sum().item<double>(), 0.0);
}

TEST_P(FullAttentionOn, WhoSeesNothingGetsZerosAndNoGradient) {
  torch::manual_seed(3);
  for (const auto dtype : {torch::kFloat, torch::kBFloat16}) {
    std::vector<Tensor> leaves;
    for (int i = 0; i < 3; ++i)
      leaves.push_back(here(torch::randn({2, 2, 5, 8}).to(dtype)).requires_grad_());
    const Tensor out = full_attention(leaves[0], leaves[1], leaves[2], here(torch::tensor({0, 5})));
    EXPECT_TRUE(out[0].equal(torch::zeros_like(out[0])));
    EXPECT_TRUE(out[1].isfinite().all().item<bool>());
    out.sum().backward();
    for (const Tensor& leaf : leaves) {
      EXPECT_TRUE(leaf.grad()[0].equal(torch::zeros_like(leaf.grad()[0])));
      EXPECT_TRUE(leaf.grad().isfinite().all().item<bool>());
    }
    EXPECT_GT(leaves[2].grad()[1].abs().sum().item<double>(), 0);
  }
}

TEST_P(FullAttentionOn, ComputesInAutocastsDtype) {
  torch::manual_seed(4);
  const Tensor q = here(torch::randn({1, 2, 3, 8})), k = here(torch::randn({1, 2, 6, 8}));
  const Autocast autocast(device().type(), torch::kBFloat16);
  const Tensor out = full_attention(q, k, k);
  EXPECT_EQ(out.scalar_type(), torch::kBFloat16);
  EXPECT_LT(test::relative_error(out, definition(q.cpu(), k.cpu(), k.cpu(), {6})), 2e-2);
}

TEST_P(FullAttentionOn, NonFiniteEntriesStayVisibleAndAlone) {
  torch::manual_seed(5);
  for (const auto dtype : {torch::kFloat, torch::kBFloat16}) {
    for (const std::int64_t keys : {1, 6, 15, 16, 17, 33}) {  // LibTorch's kernel has vectors of 16
      for (const bool padded : {false, true}) {
        Tensor q = torch::randn({2, 2, 3, 8}).to(dtype);
        q[1][0][2][3] = std::numeric_limits<float>::quiet_NaN();
        const Tensor k = here(torch::randn({2, 2, keys, 8}).to(dtype));
        const Tensor lengths = padded ? here(torch::tensor({keys, (keys + 1) / 2})) : Tensor();
        const Tensor out = full_attention(here(q), k, k, lengths);
        EXPECT_TRUE(out[1][0][2].isnan().all().item<bool>()) << keys;
        EXPECT_TRUE(out[0].isfinite().all().item<bool>());
        EXPECT_TRUE(out[1][1].isfinite().all().item<bool>());
      }
    }
  }
}

TEST(FullAttention, RefusesWhatDoesNotFit) {
  const Tensor q = torch::zeros({2, 4, 3, 8}), k = torch::zeros({2, 2, 6, 8});
  EXPECT_THROW(full_attention(q, k.narrow(2, 0, 0), k.narrow(2, 0, 0)), c10::Error);
  EXPECT_THROW(full_attention(q, torch::zeros({2, 3, 6, 8}), torch::zeros({2, 3, 6, 8})),
               c10::Error);
  EXPECT_THROW(full_attention(q, k, k.narrow(2, 0, 5)), c10::Error);
  EXPECT_THROW(full_attention(q, k, k, torch::tensor({6})), c10::Error);
  EXPECT_THROW(full_attention(q, k, k, torch::tensor({6, 6}).to(torch::kInt)), c10::Error);
}

}  // namespace
}  // namespace halftone::full_attention_test
