// SPDX-License-Identifier: Apache-2.0
// Blocks of transformers without a mask: EncoderBlock, Encoder, DiffusionBlock.
#include <gtest/gtest.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "halftone/autocast/autocast.h"
#include "halftone/autocast/keep_fp32.h"
#include "halftone/nn/diffusion_block.h"
#include "halftone/nn/encoder.h"
#include "halftone/nn/encoder_block.h"
#include "support/compute_contexts.h"
#include "support/fused_op.h"

namespace halftone::transformer_blocks_test {
namespace {

using torch::Tensor;

Tensor rms_norm(const Tensor& x) { return x * x.square().mean(-1, true).add(1e-6).rsqrt(); }

template <class Layer>
std::shared_ptr<Layer> part(const torch::nn::Module& block, const std::string& name) {
  return std::dynamic_pointer_cast<Layer>(block.named_children()[name]);
}

/// Gradients of leaves like `inputs`, and of the block's parameters, in bf16 autocast.
std::vector<Tensor> gradients(torch::nn::Module& block, const std::vector<Tensor>& inputs,
                              const std::function<Tensor(const std::vector<Tensor>&)>& forward,
                              bool again) {
  const Autocast autocast(torch::kCPU, torch::kBFloat16);
  const ComputeScope scope(test::recomputing_blocks(again));
  std::vector<Tensor> leaves;
  for (const Tensor& input : inputs) leaves.push_back(input.detach().requires_grad_());
  block.zero_grad();
  const Tensor y = forward(leaves);
  y.backward(torch::arange(y.numel()).view_as(y).sin());
  std::vector<Tensor> all;
  for (const Tensor& leaf : leaves) all.push_back(leaf.grad());
  for (const Tensor& parameter : block.parameters()) all.push_back(parameter.grad().clone());
  return all;
}

void expect_same_bits(const std::vector<Tensor>& a, const std::vector<Tensor>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (std::size_t i = 0; i < a.size(); ++i) EXPECT_TRUE(a[i].equal(b[i])) << i;
}

TEST(EncoderBlock, IsItsParts) {
  torch::manual_seed(7);
  EncoderBlock block(EncoderBlockOptions{.dim = 16, .n_heads = 4, .hidden_dim = 40});
  const auto attention = part<MultiHeadAttentionImpl>(*block, "attention");
  const auto ffn = part<FeedForwardImpl>(*block, "ffn");
  const Tensor x = torch::randn({3, 5, 16}).requires_grad_();
  const Tensor lengths = torch::tensor({5, 1, 3});
  const Tensor h = x + attention->forward(rms_norm(x), {}, lengths);
  const Tensor expected = h + ffn->forward(rms_norm(h));
  const Tensor y = block(x, lengths);
  EXPECT_LT(test::relative_error(y, expected), 1e-5);
  const Tensor g = torch::randn({3, 5, 16});
  EXPECT_LT(test::relative_error(torch::autograd::grad({y}, {x}, {g})[0],
                                 torch::autograd::grad({expected}, {x}, {g})[0]),
            1e-5);
  // What is padding does not show in what is none.
  const Tensor changed = torch::cat({x.slice(1, 0, 3), torch::randn({3, 2, 16})}, 1);
  EXPECT_TRUE(block(changed, lengths)[2].slice(0, 0, 3).equal(y[2].slice(0, 0, 3)));
}

TEST(EncoderBlock, GivesTheSameBitsWhenItRunsAgain) {
  torch::manual_seed(8);
  EncoderBlock block(EncoderBlockOptions{.dim = 16, .n_heads = 4, .hidden_dim = 40});
  const Tensor lengths = torch::tensor({5, 2});
  const auto forward = [&](const std::vector<Tensor>& in) { return block(in[0], lengths); };
  const std::vector<Tensor> inputs{torch::randn({2, 5, 16})};
  expect_same_bits(gradients(*block, inputs, forward, false),
                   gradients(*block, inputs, forward, true));
}

TEST(EncoderBlock, NormsQueriesAndKeysWhereItIsTold) {
  const EncoderBlock plain(EncoderBlockOptions{.dim = 16, .n_heads = 2, .hidden_dim = 40});
  const EncoderBlock normed(
      EncoderBlockOptions{.dim = 16, .n_heads = 2, .hidden_dim = 40, .has_qk_norm = true});
  EXPECT_FALSE(plain->named_parameters().contains("attention.q_norm.weight"));
  EXPECT_EQ(normed->named_parameters()["attention.q_norm.weight"].numel(), 8);
}

TEST(Encoder, IsItsBlocksAndANorm) {
  torch::manual_seed(9);
  Encoder encoder(EncoderBlockOptions{.dim = 16, .n_heads = 2, .hidden_dim = 40}, 3);
  const Tensor x = torch::randn({2, 4, 16}), lengths = torch::tensor({4, 2});
  Tensor expected = x;
  const auto blocks = part<torch::nn::ModuleListImpl>(*encoder, "blocks");
  ASSERT_EQ(blocks->size(), 3U);
  for (const auto& block : *blocks)
    expected = block->as<EncoderBlock>()->forward(expected, lengths);
  EXPECT_LT(test::relative_error(encoder(x, lengths), rms_norm(expected)), 1e-5);
}

/// A block whose modulation is not 0.
DiffusionBlock diffusion_block() {
  torch::manual_seed(10);
  DiffusionBlock block(
      DiffusionBlockOptions{.dim = 16, .context_dim = 12, .n_heads = 2, .hidden_dim = 40});
  const torch::NoGradGuard no_grad;
  block->modulation.normal_();
  return block;
}

TEST(DiffusionBlock, IsItsParts) {
  DiffusionBlock block = diffusion_block();
  const auto attention = part<MultiHeadAttentionImpl>(*block, "attention");
  const auto cross_attention = part<MultiHeadAttentionImpl>(*block, "cross_attention");
  const auto ffn = part<FeedForwardImpl>(*block, "ffn");
  const Tensor x = torch::randn({3, 5, 16}).requires_grad_();
  const Tensor condition = torch::randn({3, 6, 16}).requires_grad_();
  const Tensor context = torch::randn({3, 7, 12}).requires_grad_();
  const Tensor lengths = torch::tensor({7, 1, 3});

  const Tensor m = condition + block->modulation;
  const auto row = [&](std::int64_t i) { return m.narrow(1, i, 1); };
  const Tensor h = x + (1 + row(2)) * attention->forward(row(0) + (1 + row(1)) * rms_norm(x));
  const Tensor g = h + cross_attention->forward(rms_norm(h), context, lengths);
  const Tensor expected = g + (1 + row(5)) * ffn->forward(row(3) + (1 + row(4)) * rms_norm(g));

  const Tensor y = block(x, condition, context, lengths);
  EXPECT_LT(test::relative_error(y, expected), 1e-5);
  const std::vector<Tensor> by{x, condition, context, block->modulation};
  const Tensor upstream = torch::randn({3, 5, 16});
  const auto ours = torch::autograd::grad({y}, by, {upstream});
  const auto theirs = torch::autograd::grad({expected}, by, {upstream});
  for (std::size_t i = 0; i < by.size(); ++i)
    EXPECT_LT(test::relative_error(ours[i], theirs[i]), 1e-5) << i;
}

TEST(DiffusionBlock, BeginsWithoutModulation) {
  DiffusionBlock block(DiffusionBlockOptions{.dim = 16, .n_heads = 2, .hidden_dim = 40});
  EXPECT_EQ(block->modulation.count_nonzero().item<std::int64_t>(), 0);
}

TEST(DiffusionBlock, GivesTheSameBitsWhenItRunsAgain) {
  DiffusionBlock block = diffusion_block();
  const Tensor lengths = torch::tensor({7, 2});
  const auto forward = [&](const std::vector<Tensor>& in) {
    return block(in[0], in[1], in[2], lengths);
  };
  const std::vector<Tensor> inputs{torch::randn({2, 5, 16}), torch::randn({2, 6, 16}),
                                   torch::randn({2, 7, 12})};
  expect_same_bits(gradients(*block, inputs, forward, false),
                   gradients(*block, inputs, forward, true));
}

TEST(DiffusionBlock, KeepsTheStreamInFp32InAMixedPrecision) {
  DiffusionBlock block = diffusion_block();
  const Tensor x = torch::randn({2, 5, 16}), condition = torch::randn({2, 6, 16});
  const Tensor context = torch::randn({2, 7, 12});
  const Tensor exact = block(x, condition, context);
  const Autocast autocast(torch::kCPU, torch::kBFloat16);
  const Tensor mixed = block(x, condition, context);
  EXPECT_EQ(mixed.scalar_type(), torch::kFloat);
  const double error = test::relative_error(mixed, exact);
  EXPECT_GT(error, 1e-5);  // the matmuls did round
  EXPECT_LT(error, 2e-2);
}

// Branches that add nothing leave the bits of x, which bf16 has not.
TEST(DiffusionBlock, PassesTheStreamThroughAMixedPrecision) {
  DiffusionBlock block = diffusion_block();
  const torch::NoGradGuard no_grad;
  block->modulation.zero_();
  block->named_parameters()["cross_attention.wo.weight"].zero_();
  Tensor condition = torch::randn({2, 6, 16});
  condition.select(1, 2).fill_(-1);  // 1 + it scales the attention
  condition.select(1, 5).fill_(-1);  // and the feed-forward network
  const Tensor x = torch::randn({2, 5, 16}), context = torch::randn({2, 7, 12});
  const Autocast autocast(torch::kCPU, torch::kBFloat16);
  EXPECT_TRUE(block(x, condition, context).equal(x));
}

/// Has the matmuls of an attention compute in fp32.
void keep_attention(torch::nn::Module& block, const std::string& name) {
  for (const auto& [parameter, value] : block.named_children()[name]->named_parameters().pairs())
    mark_keep_fp32(value);
}

TEST(EncoderBlock, GivesAnAttentionThatStaysInFp32WhatIsNotRounded) {
  torch::manual_seed(11);
  EncoderBlock block(EncoderBlockOptions{.dim = 16, .n_heads = 2, .hidden_dim = 40});
  const torch::NoGradGuard no_grad;
  block->named_parameters()["ffn.w2.weight"].zero_();
  const Tensor x = torch::randn({2, 5, 16}), exact = block(x);
  keep_attention(*block, "attention");
  const Autocast autocast(torch::kCPU, torch::kBFloat16);
  EXPECT_LT(test::relative_error(block(x), exact), 1e-6);
}

TEST(DiffusionBlock, GivesAttentionsThatStayInFp32WhatIsNotRounded) {
  DiffusionBlock block = diffusion_block();
  const torch::NoGradGuard no_grad;
  block->named_parameters()["ffn.w2.weight"].zero_();
  const Tensor x = torch::randn({2, 5, 16}), condition = torch::randn({2, 6, 16});
  const Tensor context = torch::randn({2, 7, 12}), exact = block(x, condition, context);
  keep_attention(*block, "attention");
  keep_attention(*block, "cross_attention");
  const Autocast autocast(torch::kCPU, torch::kBFloat16);
  EXPECT_LT(test::relative_error(block(x, condition, context), exact), 1e-6);
}

TEST(DiffusionBlock, RefusesAConditionOfAnotherShape) {
  DiffusionBlock block = diffusion_block();
  const Tensor x = torch::randn({2, 5, 16}), context = torch::randn({2, 7, 12});
  EXPECT_THROW(block(x, torch::randn({2, 16}), context), c10::Error);
  EXPECT_THROW(block(x, torch::randn({1, 6, 16}), context), c10::Error);
  EXPECT_THROW(block(x, torch::randn({2, 6, 1}), context), c10::Error);
  EXPECT_THROW(block(x, torch::randn({2, 6, 16}), Tensor()), c10::Error);
}

}  // namespace
}  // namespace halftone::transformer_blocks_test
