// SPDX-License-Identifier: Apache-2.0
#include "halftone/inspect/non_finite_finder.h"

#include <ATen/record_function.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/nn/modules/linear.h>
#include <torch/optim/sgd.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>

#include "halftone/autocast/autocast.h"
#include "halftone/models/causal_lm.h"
#include "halftone/nn/loss.h"
#include "halftone/optim/adamw.h"
#include "halftone/precision/grad_scaler.h"

namespace halftone::non_finite_finder_test {
namespace {

using testing::HasSubstr;
using testing::StartsWith;
using Kind = NonFiniteOrigin::Kind;

constexpr double kInf = std::numeric_limits<double>::infinity();

struct Block : torch::nn::Module {
  Block() {
    torch::manual_seed(3);
    first = register_module("first", torch::nn::Linear(8, 8));
    second = register_module("second", torch::nn::Linear(8, 8));
    third = register_module("third", torch::nn::Linear(8, 4));
  }
  torch::nn::Linear first{nullptr}, second{nullptr}, third{nullptr};
};

torch::Tensor input() { return torch::linspace(-1, 1, 40).reshape({5, 8}); }

TEST(NonFiniteFinder, FindsNothingInAHealthyStep) {
  Block block;
  const auto loss = [&] { return block.third(block.second(block.first(input()))).sum(); };
  EXPECT_FALSE(find_first_non_finite(block, loss).has_value());
}

TEST(NonFiniteFinder, NamesTheOperationOfTheForwardPass) {
  Block block;
  const auto loss = [&] {
    const torch::Tensor h = block.second(block.first(input()) * 1e3);
    return block.third(h.exp()).square().sum();  // exp overflows; all after it is inf or nan
  };
  const auto origin = find_first_non_finite(block, loss);
  ASSERT_TRUE(origin.has_value());
  EXPECT_EQ(origin->kind, Kind::kForward);
  EXPECT_EQ(origin->site.operation, "aten::exp");
  EXPECT_EQ(origin->site.parameters.at(0), "second.bias");
  EXPECT_FALSE(origin->site.reads_parameter);
  EXPECT_EQ(place_of(*origin),
            "aten::exp, after 'second.bias' makes the first non-finite value of the forward pass");
}

TEST(NonFiniteFinder, NamesTheLayerThatOverflowsFp16UnderAutocast) {
  Block block;
  {
    const torch::NoGradGuard no_grad;
    block.second->weight.fill_(3e4);
  }
  const auto loss = [&] {
    const Autocast autocast(torch::kCPU, torch::kHalf);
    return block.third(block.second(block.first(input()).abs() + 1)).to(torch::kFloat).sum();
  };
  const auto origin = find_first_non_finite(block, loss);
  ASSERT_TRUE(origin.has_value());
  EXPECT_EQ(origin->kind, Kind::kForward);
  EXPECT_TRUE(origin->site.reads_parameter);
  EXPECT_THAT(origin->site.parameters.at(0), StartsWith("second."));
}

TEST(NonFiniteFinder, NamesTheOperationOfTheBackwardPass) {
  Block block;
  // sqrt has an infinite slope at 0; forward is finite throughout.
  const auto loss = [&] {
    const torch::Tensor h = block.second(block.first(input()));
    return block.third((h - h.detach()).abs().sqrt()).sum();
  };
  const auto origin = find_first_non_finite(block, loss);
  ASSERT_TRUE(origin.has_value());
  EXPECT_EQ(origin->kind, Kind::kBackward);
  EXPECT_EQ(origin->site.node, "SqrtBackward0");
  EXPECT_EQ(origin->site.forward, "aten::sqrt");
  EXPECT_EQ(origin->site.parameters.at(0), "second.bias");
  EXPECT_EQ(origin->gradient, "first.weight");
  EXPECT_THAT(to_string(*origin), HasSubstr("SqrtBackward0, the backward pass of aten::sqrt"));
  EXPECT_THAT(to_string(*origin), HasSubstr("it reaches that of 'first.weight'"));
}

TEST(NonFiniteFinder, FindsTheScaledGradientThatLeavesFp16) {
  Block block;
  GradScaler scaler({.init_scale = 65536});
  const auto loss = [&] {
    torch::Tensor out;
    {
      const Autocast autocast(torch::kCPU, torch::kHalf);
      out = block.third(block.second(block.first(input())));
    }
    return scaler.scale(out.to(torch::kFloat).sum());  // 65536 is beyond fp16
  };
  const auto origin = find_first_non_finite(block, loss);
  ASSERT_TRUE(origin.has_value());
  EXPECT_EQ(origin->kind, Kind::kBackward);
  EXPECT_EQ(origin->site.node, "ToCopyBackward0");
  EXPECT_THAT(origin->site.parameters.at(0), StartsWith("third."));
}

// Each branch's gradient fits into fp16, their sum does not; autograd adds them outside of any
// node.
TEST(NonFiniteFinder, NamesTheSumOfTwoBranches) {
  Block block;
  const auto loss = [&] {
    const torch::Tensor h = block.second(block.first(input())).to(torch::kHalf);
    return (h.to(torch::kFloat) * 4e4).sum() + (h.to(torch::kFloat) * 4e4).sum();
  };
  const auto origin = find_first_non_finite(block, loss);
  ASSERT_TRUE(origin.has_value());
  EXPECT_EQ(origin->kind, Kind::kBackward);
  EXPECT_THAT(origin->site.operation, StartsWith("aten::add"));
  EXPECT_EQ(origin->site.node, "");
  EXPECT_THAT(to_string(*origin), HasSubstr("makes the first non-finite gradient; it reaches"));
}

// What stands in memory that is about to be written is nobody's doing.
TEST(NonFiniteFinder, IgnoresWhatIsOnlyWritten) {
  Block block;
  const auto loss = [&](double factor) {
    const torch::Tensor h = block.first(input());
    torch::Tensor product = torch::empty({5, 5});
    std::fill_n(product.data_ptr<float>(), 25, NAN);  // as fresh memory may hold
    at::mm_out(product, h.detach(), h.detach().t());
    return h.sum() + product.sum() * factor * factor;
  };
  EXPECT_FALSE(find_first_non_finite(block, [&] { return loss(1); }).has_value());
  const auto origin = find_first_non_finite(block, [&] { return loss(1e30); });
  ASSERT_TRUE(origin.has_value());
  EXPECT_EQ(origin->kind, Kind::kForward);
  EXPECT_EQ(origin->site.operation, "aten::mul");
}

TEST(NonFiniteFinder, DoesNotBlameAMask) {
  Block block;
  const auto scores = [&] {
    const torch::Tensor h = block.first(input());
    return torch::mm(h, h.t()) + torch::full({5, 5}, -kInf).triu(1);
  };
  const auto healthy = [&] { return block.second(torch::softmax(scores(), -1).mm(input())).sum(); };
  EXPECT_FALSE(find_first_non_finite(block, healthy).has_value());

  const auto sick = [&] {
    const torch::Tensor h = block.second(torch::softmax(scores(), -1).mm(input()));
    return (block.third(h) * 0).log().abs().sum();
  };
  const auto origin = find_first_non_finite(block, sick);
  ASSERT_TRUE(origin.has_value());
  EXPECT_EQ(origin->site.operation, "aten::log");
}

TEST(NonFiniteFinder, NamesABadParameterAndABadInput) {
  Block block;
  const auto good = [&] { return block.third(block.second(block.first(input()))).sum(); };
  const auto bad_data = [&] {
    torch::Tensor x = input();
    *x.data_ptr<float>() = NAN;  // from outside of LibTorch's operations
    return block.first(x).sum();
  };
  auto origin = find_first_non_finite(block, bad_data);
  ASSERT_TRUE(origin.has_value());
  EXPECT_EQ(origin->kind, Kind::kInput);
  EXPECT_THAT(to_string(*origin), HasSubstr("reads a value that is not finite"));

  {
    const torch::NoGradGuard no_grad;
    block.second->weight[0][0] = NAN;
  }
  origin = find_first_non_finite(block, good);
  ASSERT_TRUE(origin.has_value());
  EXPECT_EQ(origin->kind, Kind::kParameter);
  EXPECT_EQ(place_of(*origin), "the parameter 'second.weight' is not finite itself");
}

// A user's operator is a step of autograd like any other.
struct Explode : torch::autograd::Function<Explode> {
  static torch::Tensor forward(torch::autograd::AutogradContext*, const torch::Tensor& x) {
    return x.clone();
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext*,
                                                 const torch::autograd::variable_list& g) {
    return {g[0] * 1e30 * 1e30};
  }
};

TEST(NonFiniteFinder, NamesACustomFunction) {
  Block block;
  const auto loss = [&] {
    return block.third(Explode::apply(block.second(block.first(input())))).sum();
  };
  const auto origin = find_first_non_finite(block, loss);
  ASSERT_TRUE(origin.has_value());
  EXPECT_EQ(origin->kind, Kind::kBackward);
  EXPECT_EQ(origin->site.operation, "aten::mul");
  EXPECT_THAT(origin->site.node, HasSubstr("Explode"));
}

// Parameters and gradients of our AdamW lie in one storage each.
TEST(NonFiniteFinder, TellsParametersInOneBufferApartAndLeavesGradientsAlone) {
  Block block;
  AdamW optimizer(block.parameters());
  block.third->weight.mutable_grad().fill_(2.0);
  const auto loss = [&] {
    const torch::Tensor h = block.second(block.first(input()));
    return (block.third(h) * 1e38F * 1e10F).sum();
  };
  const auto origin = find_first_non_finite(block, loss);
  ASSERT_TRUE(origin.has_value());
  EXPECT_EQ(origin->site.operation, "aten::mul");
  EXPECT_EQ(origin->site.parameters.at(0), "third.bias");
  EXPECT_TRUE(block.third->weight.grad().eq(2.0).all().item<bool>());
}

// Our own model: causal attention, fused 16-bit linear layers, AdamW's buffers.
struct Language {
  Language() : model(config()), tokens(torch::arange(2 * 17).reshape({2, 17}) % 50) {
    torch::manual_seed(1);
    optimizer = std::make_unique<AdamW>(model->parameters());
  }
  static ModelConfig config() {
    return {.dim = 64, .n_layers = 3, .n_heads = 4, .n_kv_heads = 2, .vocab_size = 50};
  }
  torch::Tensor loss(double scale) {
    const Autocast autocast(torch::kCPU, torch::kHalf);
    const torch::Tensor logits = model->forward(tokens.narrow(1, 0, 16)).logits.flatten(0, 1);
    return scale *
           masked_cross_entropy(logits, tokens.narrow(1, 1, 16).flatten(), torch::ones({32}));
  }
  torch::Tensor chunked_loss() {
    const Autocast autocast(torch::kCPU, torch::kHalf);
    return model->loss(tokens.narrow(1, 0, 16), tokens.narrow(1, 1, 16), torch::ones({2, 16}))
        .cross_entropy;
  }
  void multiply(const std::string& parameter, double factor) {
    const torch::NoGradGuard no_grad;
    model->named_parameters()[parameter].mul_(factor);
  }
  CausalLM model;
  torch::Tensor tokens;
  std::unique_ptr<AdamW> optimizer;
};

TEST(NonFiniteFinder, FindsTheLayerOfALanguageModel) {
  Language healthy;
  EXPECT_FALSE(find_first_non_finite(*healthy.model, [&] { return healthy.loss(1); }).has_value());

  Language forward;
  forward.multiply("layers.1.feed_forward.w2.weight", 1e7);  // beyond fp16 once it is cast
  auto origin = find_first_non_finite(*forward.model, [&] { return forward.loss(1); });
  ASSERT_TRUE(origin.has_value());
  EXPECT_EQ(origin->kind, Kind::kForward);
  EXPECT_EQ(origin->site.operation, "aten::copy_");  // which aten::_to_copy is made of
  EXPECT_EQ(origin->site.parameters.at(0), "layers.1.feed_forward.w2.weight") << to_string(*origin);

  Language backward;
  origin = find_first_non_finite(*backward.model, [&] { return backward.loss(1e9); });
  ASSERT_TRUE(origin.has_value());
  EXPECT_EQ(origin->kind, Kind::kBackward) << to_string(*origin);
  EXPECT_EQ(place_of(*origin),
            "aten::copy_ in ToCopyBackward0, the backward pass of aten::_to_copy, after "
            "'tok_embeddings.weight' makes the first non-finite gradient; it reaches that of "
            "'tok_embeddings.weight'");
}

// The chunked loss takes gradients in the forward pass and writes them over the logits.
TEST(NonFiniteFinder, FindsWhatReachesTheChunkedLoss) {
  Language healthy;
  const auto loss_of = [](Language& language) {
    return find_first_non_finite(*language.model, [&] { return language.chunked_loss(); });
  };
  EXPECT_FALSE(loss_of(healthy).has_value());

  Language head;
  head.multiply("tok_embeddings.weight", 1e7);
  auto origin = loss_of(head);
  ASSERT_TRUE(origin.has_value());
  EXPECT_EQ(origin->kind, Kind::kForward) << to_string(*origin);
  EXPECT_EQ(origin->site.parameters.at(0), "tok_embeddings.weight");

  Language logits;
  logits.multiply("norm.weight", 3e4);
  logits.multiply("tok_embeddings.weight", 200);
  origin = loss_of(logits);
  ASSERT_TRUE(origin.has_value());
  EXPECT_EQ(origin->kind, Kind::kForward) << to_string(*origin);
  EXPECT_EQ(origin->site.parameters.at(0), "tok_embeddings.weight") << to_string(*origin);

  Language layer;
  layer.multiply("layers.1.feed_forward.w2.weight", 1e7);
  origin = loss_of(layer);
  ASSERT_TRUE(origin.has_value());
  EXPECT_EQ(origin->site.parameters.at(0), "layers.1.feed_forward.w2.weight") << to_string(*origin);
}

TEST(NonFiniteFinder, StopsWatchingAfterAnException) {
  Block block;
  const auto broken = []() -> torch::Tensor { throw std::runtime_error("no data"); };
  EXPECT_THROW(find_first_non_finite(block, broken), std::runtime_error);
  EXPECT_THROW(find_first_non_finite(block, [] { return torch::ones({2}); }), c10::Error);
  EXPECT_TRUE((torch::ones({2}) / 0.0).isinf().all().item<bool>());
  EXPECT_FALSE(at::hasGlobalCallbacks());
}

TEST(NonFiniteFinder, SaysWhyAScalerFindsNoHope) {
  Block block;
  torch::optim::SGD optimizer(block.parameters(), torch::optim::SGDOptions(0.1));
  GradScaler scaler({.init_scale = 2, .max_skips_at_floor = 2});
  scaler.name_parameters(block);
  const auto loss = [&] {
    const torch::Tensor h = block.second(block.first(input()));
    return scaler.scale(block.third((h - h.detach()).abs().sqrt()).sum());
  };
  ScalerVerdict verdict;
  for (int i = 0; i < 3; ++i) {
    EXPECT_FALSE(verdict.hopeless);
    optimizer.zero_grad();
    loss().backward();
    scaler.step(optimizer);
    verdict = scaler.update();
  }
  EXPECT_TRUE(verdict.hopeless);
  EXPECT_THAT(verdict.reason, HasSubstr("the last 2 updates were skipped"));
  EXPECT_THAT(verdict.reason, HasSubstr("first in first.weight"));
  const std::string origin = to_string(find_first_non_finite(block, loss).value());
  EXPECT_THAT(origin, HasSubstr("SqrtBackward0, the backward pass of aten::sqrt, after "
                                "'second.bias' makes the first non-finite gradient"));
}

}  // namespace
}  // namespace halftone::non_finite_finder_test
