// SPDX-License-Identifier: Apache-2.0
#include "halftone/nn/multi_head_attention.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/nn/modules/activation.h>

#include <memory>
#include <vector>

#include "halftone/autocast/autocast.h"
#include "halftone/autocast/keep_fp32.h"
#include "halftone/core/error.h"
#include "support/fused_op.h"
#include "support/message_of.h"

namespace halftone::multi_head_attention_test {
namespace {

using testing::HasSubstr;
using torch::Tensor;

/// LibTorch's module with the weights of ours.
torch::nn::MultiheadAttention libtorchs(MultiHeadAttention& ours, std::int64_t dim,
                                        std::int64_t heads, std::int64_t context) {
  torch::nn::MultiheadAttention theirs(
      torch::nn::MultiheadAttentionOptions(dim, heads).kdim(context).vdim(context));
  const torch::NoGradGuard no_grad;
  const auto p = ours->named_parameters();
  auto q = theirs->named_parameters();
  if (context == dim) {
    q["in_proj_weight"].copy_(torch::cat({p["wq.weight"], p["wk.weight"], p["wv.weight"]}));
  } else {
    q["q_proj_weight"].copy_(p["wq.weight"]);
    q["k_proj_weight"].copy_(p["wk.weight"]);
    q["v_proj_weight"].copy_(p["wv.weight"]);
  }
  q["in_proj_bias"].copy_(torch::cat({p["wq.bias"], p["wk.bias"], p["wv.bias"]}));
  q["out_proj.weight"].copy_(p["wo.weight"]);
  q["out_proj.bias"].copy_(p["wo.bias"]);
  return theirs;
}

/// theirs with the sequence first, and a mask of what is padding.
Tensor call(torch::nn::MultiheadAttention& theirs, const Tensor& x, const Tensor& context,
            const Tensor& padding) {
  return std::get<0>(theirs(x.transpose(0, 1), context.transpose(0, 1), context.transpose(0, 1),
                            padding, /*need_weights=*/false))
      .transpose(0, 1);
}

TEST(MultiHeadAttention, EqualsLibTorchsWithItsGradients) {
  torch::manual_seed(1);
  for (const std::int64_t context_dim : {12, 20}) {
    MultiHeadAttention ours(MultiHeadAttentionOptions{
        .dim = 12, .context_dim = context_dim, .n_heads = 3, .has_bias = true});
    torch::nn::MultiheadAttention theirs = libtorchs(ours, 12, 3, context_dim);
    const Tensor x = torch::randn({2, 5, 12}).requires_grad_();
    const Tensor context = torch::randn({2, 7, context_dim}).requires_grad_();
    const Tensor lengths = torch::tensor({7, 4});
    const Tensor padding = torch::arange(7).unsqueeze(0) >= lengths.unsqueeze(1);
    const Tensor g = torch::randn({2, 5, 12});
    const Tensor y = ours(x, context, lengths), expected = call(theirs, x, context, padding);
    EXPECT_LT(test::relative_error(y, expected), 1e-5);
    const std::vector<Tensor> leaves{x, context};
    const auto a = torch::autograd::grad({y}, leaves, {g});
    const auto b = torch::autograd::grad({expected}, leaves, {g});
    for (std::size_t i = 0; i < 2; ++i) EXPECT_LT(test::relative_error(a[i], b[i]), 1e-5);
  }
}

TEST(MultiHeadAttention, AloneItSeesItself) {
  torch::manual_seed(2);
  MultiHeadAttention ours(
      MultiHeadAttentionOptions{.dim = 16, .n_heads = 4, .n_kv_heads = 2, .has_qk_norm = true});
  const Tensor x = torch::randn({2, 6, 16});
  EXPECT_LT(test::relative_error(ours(x), ours(x, x)), 1e-5);
  // No position is special: a shuffled sequence gives the shuffled result.
  const Tensor order = torch::tensor({3, 0, 5, 1, 4, 2});
  EXPECT_LT(test::relative_error(ours(x.index_select(1, order)), ours(x).index_select(1, order)),
            1e-5);
  // Norms make scores independent of the size of queries.
  const torch::NoGradGuard no_grad;
  const Tensor before = ours(x);
  ours->named_parameters()["wq.weight"].mul_(10);
  EXPECT_LT(test::relative_error(ours(x), before), 1e-3);
}

TEST(MultiHeadAttention, HasTheDtypesOfItsRecipe) {
  torch::manual_seed(3);
  MultiHeadAttention ours(MultiHeadAttentionOptions{.dim = 16, .n_heads = 4, .has_qk_norm = true});
  const Tensor x = torch::randn({2, 6, 16});
  const Tensor expected = ours(x);
  {
    const Autocast autocast(torch::kCPU, torch::kBFloat16);
    const Tensor y = ours(x, x);
    EXPECT_EQ(y.scalar_type(), torch::kBFloat16);
    EXPECT_LT(test::relative_error(y, expected), 2e-2);
    for (const auto& parameter : ours->parameters()) mark_keep_fp32(parameter);
    EXPECT_LT(test::relative_error(ours(x), expected), 1e-6);
    for (const auto& parameter : ours->parameters()) unmark_keep_fp32(parameter);
  }
  ours->to(torch::kHalf);
  const Tensor y = ours(x.to(torch::kHalf));
  EXPECT_EQ(y.scalar_type(), torch::kHalf);
  EXPECT_LT(test::relative_error(y, expected), 3e-3);
}

TEST(MultiHeadAttention, DropsInTrainingOnly) {
  torch::manual_seed(4);
  MultiHeadAttention ours(MultiHeadAttentionOptions{.dim = 16, .n_heads = 4, .dropout = 0.5});
  const Tensor x = torch::randn({2, 6, 16});
  EXPECT_FALSE(ours(x).equal(ours(x)));
  ours->eval();
  EXPECT_TRUE(ours(x).equal(ours(x)));
}

TEST(MultiHeadAttention, RefusesSizesThatDoNotFit) {
  const auto made = [](const MultiHeadAttentionOptions& options) {
    return [options] { MultiHeadAttention attention(options); };
  };
  EXPECT_THAT(test::message_of<UserError>(made({.dim = 16, .n_heads = 3})),
              HasSubstr("dim 16, 3 heads"));
  EXPECT_THAT(test::message_of<UserError>(made({.dim = 16, .n_heads = 4, .n_kv_heads = 3})),
              HasSubstr("3 heads of keys"));
  EXPECT_THAT(test::message_of<UserError>(made({.n_heads = 4})),
              HasSubstr("dim and n_heads from 1"));
  MultiHeadAttention ours(MultiHeadAttentionOptions{.dim = 16, .context_dim = 8, .n_heads = 4});
  const Tensor x = torch::zeros({2, 3, 16});
  EXPECT_THROW(ours(x), c10::Error);
  EXPECT_THROW(ours(x, torch::zeros({1, 3, 8})), c10::Error);
  EXPECT_THROW(ours(x[0], torch::zeros({2, 3, 8})), c10::Error);
}

}  // namespace
}  // namespace halftone::multi_head_attention_test
