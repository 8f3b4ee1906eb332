// SPDX-License-Identifier: Apache-2.0
#include "halftone/precision/keep_fp32.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/nn/modules/activation.h>
#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/container/sequential.h>
#include <torch/nn/modules/conv.h>
#include <torch/nn/modules/linear.h>
#include <torch/nn/modules/normalization.h>
#include <torch/nn/modules/rnn.h>

#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "halftone/autocast/autocast.h"
#include "halftone/autocast/keep_fp32.h"
#include "halftone/core/error.h"
#include "halftone/core/log.h"
#include "halftone/models/causal_lm.h"
#include "halftone/nn/attention.h"
#include "halftone/nn/embedding.h"
#include "halftone/nn/feed_forward.h"
#include "halftone/nn/linear.h"
#include "halftone/nn/moe.h"
#include "halftone/nn/rms_norm.h"
#include "halftone/nn/rope.h"
#include "support/message_of.h"

namespace halftone::keep_fp32_test {
namespace {

using test::message_of;
using testing::ElementsAre;
using testing::HasSubstr;
using torch::Tensor;

class LogLines {
 public:
  LogLines() {
    set_log_sink([this](LogLevel, const std::string& line) { lines.push_back(line); });
  }
  ~LogLines() { set_log_sink(nullptr); }
  std::vector<std::string> lines;
};

/// The output of `module` and the gradients of the input and of all parameters, for a fixed
/// gradient of the output.
template <class Module>
std::vector<Tensor> run(Module& module, const Tensor& x,
                        const std::function<Tensor(Module&, const Tensor&)>& forward) {
  module->zero_grad();
  const Tensor input = x.detach().clone().requires_grad_();
  const Tensor y = forward(module, input);
  y.backward(torch::linspace(-1, 1, y.numel()).view_as(y).to(y.scalar_type()));
  std::vector<Tensor> results{y.detach(), input.grad()};
  for (const Tensor& parameter : module->parameters())
    results.push_back(parameter.grad().defined() ? parameter.grad().clone() : Tensor());
  return results;
}

bool same(const std::vector<Tensor>& a, const std::vector<Tensor>& b) {
  if (a.size() != b.size()) return false;
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (a[i].defined() != b[i].defined()) return false;
    if (a[i].defined() && (a[i].scalar_type() != b[i].scalar_type() || !a[i].equal(b[i])))
      return false;
  }
  return true;
}

template <class Module>
void expect_kept_as_without_autocast(
    Module module, const Tensor& x,
    const std::function<Tensor(Module&, const Tensor&)>& forward = [](Module& m, const Tensor& t) {
      return m->forward(t);
    }) {
  const Tensor rounded = x.to(torch::kBFloat16);
  const auto expected = run<Module>(module, x, forward);
  const auto expected_of_rounded = run<Module>(module, rounded.to(torch::kFloat), forward);
  const auto autocast_forward = [&](Module& m, const Tensor& t) {
    const Autocast autocast(torch::kCPU, torch::kBFloat16);
    return forward(m, t);
  };
  const auto under_autocast = [&](const Tensor& input) {
    return run<Module>(module, input, autocast_forward);
  };
  const auto before = under_autocast(x);
  keep_fp32(*module, {""});
  EXPECT_TRUE(same(under_autocast(x), expected)) << module->name();
  // A 16-bit activation is upcast; its gradient comes back in its own dtype.
  const auto of_rounded = under_autocast(rounded);
  EXPECT_EQ(of_rounded[0].scalar_type(), torch::kFloat) << module->name();
  EXPECT_TRUE(of_rounded[0].equal(expected_of_rounded[0])) << module->name();
  EXPECT_EQ(of_rounded[1].scalar_type(), torch::kBFloat16) << module->name();
  // Where x is used several times its gradients are added in bf16.
  EXPECT_TRUE(of_rounded[1].to(torch::kFloat).allclose(expected_of_rounded[1], 0.02, 1e-3))
      << module->name();
  for (const Tensor& parameter : module->parameters()) unmark_keep_fp32(parameter);
  for (const Tensor& buffer : module->buffers()) unmark_keep_fp32(buffer);
  EXPECT_TRUE(same(under_autocast(x), before)) << module->name();
}

TEST(KeepFp32, LayersOfTorchComputeAsWithoutAutocast) {
  LogLines log;
  torch::manual_seed(1);
  namespace nn = torch::nn;
  expect_kept_as_without_autocast(nn::Linear(6, 5), torch::randn({3, 6}));
  expect_kept_as_without_autocast(nn::Linear(6, 5), torch::randn({2, 3, 6}));
  expect_kept_as_without_autocast(nn::Linear(nn::LinearOptions(6, 5).bias(false)),
                                  torch::randn({3, 6}));
  expect_kept_as_without_autocast(nn::Conv1d(2, 3, 3), torch::randn({2, 2, 9}));
  expect_kept_as_without_autocast(nn::Conv2d(2, 3, 3), torch::randn({2, 2, 7, 7}));
  expect_kept_as_without_autocast(nn::Conv2d(nn::Conv2dOptions(2, 3, 3).padding(torch::kSame)),
                                  torch::randn({2, 2, 7, 7}));
  expect_kept_as_without_autocast(nn::Conv3d(2, 3, 2), torch::randn({1, 2, 4, 4, 4}));
  expect_kept_as_without_autocast(nn::ConvTranspose1d(2, 3, 3), torch::randn({2, 2, 5}));
  expect_kept_as_without_autocast(nn::ConvTranspose2d(2, 3, 3), torch::randn({2, 2, 5, 5}));
  expect_kept_as_without_autocast(nn::ConvTranspose3d(2, 3, 2), torch::randn({1, 2, 3, 3, 3}));
  expect_kept_as_without_autocast(nn::PReLU(), torch::randn({4, 5}));
  expect_kept_as_without_autocast(nn::LayerNorm(nn::LayerNormOptions({6})), torch::randn({3, 6}));
  expect_kept_as_without_autocast(nn::GroupNorm(2, 4), torch::randn({3, 4, 5}));
  nn::BatchNorm1d normalisation(4);
  normalisation->eval();
  expect_kept_as_without_autocast(normalisation, torch::randn({3, 4}));
}

TEST(KeepFp32, RecurrentLayersOfTorchComputeAsWithoutAutocast) {
  LogLines log;
  torch::manual_seed(2);
  const Tensor x = torch::randn({5, 2, 4});
  expect_kept_as_without_autocast<torch::nn::LSTM>(
      torch::nn::LSTM(torch::nn::LSTMOptions(4, 3).num_layers(2)), x,
      [](torch::nn::LSTM& m, const Tensor& t) { return std::get<0>(m->forward(t)); });
  expect_kept_as_without_autocast<torch::nn::GRU>(
      torch::nn::GRU(4, 3), x,
      [](torch::nn::GRU& m, const Tensor& t) { return std::get<0>(m->forward(t)); });
  expect_kept_as_without_autocast<torch::nn::RNN>(
      torch::nn::RNN(4, 3), x,
      [](torch::nn::RNN& m, const Tensor& t) { return std::get<0>(m->forward(t)); });
  expect_kept_as_without_autocast<torch::nn::LSTMCell>(
      torch::nn::LSTMCell(4, 3), x[0],
      [](torch::nn::LSTMCell& m, const Tensor& t) { return std::get<0>(m->forward(t)); });
}

TEST(KeepFp32, OurLayersComputeAsWithoutAutocast) {
  LogLines log;
  torch::manual_seed(3);
  expect_kept_as_without_autocast(Linear(8, 6), torch::randn({3, 8}));
  expect_kept_as_without_autocast(RmsNorm(8, 1e-5), torch::randn({3, 8}));
  expect_kept_as_without_autocast(FeedForward(8, 12, 0.0), torch::randn({2, 3, 8}));
  const auto moe = [](MoeFeedForward& m, const Tensor& t) { return m->forward(t).y; };
  expect_kept_as_without_autocast<MoeFeedForward>(
      MoeFeedForward(MoeOptions{.dim = 8, .hidden_dim = 12, .aux_loss_alpha = 0.0}),
      torch::randn({2, 5, 8}), moe);
  RopeTable rope(4, 1e4);
  const Tensor rotations = rope.rows(0, 5, torch::kCPU);
  expect_kept_as_without_autocast<Attention>(
      Attention(AttentionOptions{.dim = 8, .n_heads = 2, .n_kv_heads = 1, .head_dim = 4}),
      torch::randn({2, 5, 8}),
      [&](Attention& m, const Tensor& t) { return m->forward(t, rotations, CacheSlot{}); });
  expect_kept_as_without_autocast<Embedding>(
      Embedding(11, 8), torch::randn({3, 8}),
      [](Embedding& m, const Tensor& t) { return m->logits(t); });
}

TEST(KeepFp32, BareTensorsAndTheirViewsAreSeen) {
  const Tensor weight = torch::randn({4, 4});
  const Tensor x = torch::randn({4, 4});
  mark_keep_fp32(weight);
  const Autocast autocast(torch::kCPU, torch::kBFloat16);
  for (const bool grad : {true, false}) {
    const torch::AutoGradMode mode(grad);
    EXPECT_EQ(torch::mm(x, weight).scalar_type(), torch::kFloat);
    EXPECT_EQ(torch::mm(x, weight.t()).scalar_type(), torch::kFloat);
    EXPECT_EQ(torch::mm(x, weight.slice(0, 0, 4).t()).scalar_type(), torch::kFloat);
    EXPECT_EQ(torch::einsum("ij,kj->ik", {x, weight}).scalar_type(), torch::kFloat);
  }
  {
    const c10::InferenceMode inference;
    EXPECT_EQ(torch::mm(x, weight.t()).scalar_type(), torch::kFloat);
  }
  EXPECT_EQ(torch::mm(x, x).scalar_type(), torch::kBFloat16);
  unmark_keep_fp32(weight);
  EXPECT_EQ(torch::mm(x, weight).scalar_type(), torch::kBFloat16);
}

// Wrapped or not, LibTorch's own kernels decide about what is not marked.
TEST(KeepFp32, OtherParametersAreRoundedAsBefore) {
  LogLines log;
  torch::manual_seed(4);
  torch::nn::Sequential model(torch::nn::Linear(6, 6), torch::nn::Linear(6, 6));
  auto& second = *model[1]->as<torch::nn::Linear>();
  const Tensor x = torch::randn({3, 6});
  keep_fp32(*model, {"^0$"});
  const Autocast autocast(torch::kCPU, torch::kBFloat16);
  const Tensor between = model[0]->as<torch::nn::Linear>()->forward(x);
  EXPECT_EQ(between.scalar_type(), torch::kFloat);
  const Tensor y = model->forward(x);
  const auto narrow = [](const Tensor& t) { return t.to(torch::kBFloat16); };
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  EXPECT_TRUE(
      y.equal(torch::addmm(narrow(second.bias), narrow(between), narrow(second.weight).t())));
}

TEST(KeepFp32, AWeightThatIsNotKeptIsStillCastOnce) {
  const Tensor kept = torch::ones({2, 2});
  mark_keep_fp32(kept);
  const Tensor weight = torch::ones({2, 2}, torch::requires_grad());
  const Autocast autocast(torch::kCPU, torch::kBFloat16);
  const Tensor cached = at::autocast::cached_cast(torch::kBFloat16, weight, torch::kCPU);
  const auto uses = cached.use_count();
  const Tensor x = torch::ones({2, 2}, torch::requires_grad());
  const Tensor y = torch::mm(x, weight);
  const Tensor z = torch::mm(x, weight);
  EXPECT_TRUE(at::autocast::cached_cast(torch::kBFloat16, weight, torch::kCPU).is_same(cached));
  EXPECT_EQ(cached.use_count(), uses + 2);  // both matmuls saved it for backward
}

TEST(KeepFp32, GroupsWithAKeptWeightMixDtypes) {
  LogLines log;
  torch::manual_seed(5);
  FeedForward layer(8, 12, 0.0);
  const Tensor x = torch::randn({3, 8});
  const Tensor whole = layer(x);
  const auto error_of = [&] {
    const Autocast autocast(torch::kCPU, torch::kBFloat16);
    return (layer(x).to(torch::kFloat) - whole).abs().max().item<float>();
  };
  const float none_kept = error_of();
  keep_fp32(*layer, {"w1", "w2"});
  const float two_kept = error_of();
  EXPECT_GT(two_kept, 0.0F);
  EXPECT_LT(two_kept, none_kept);
  keep_fp32(*layer, {"w3"});
  EXPECT_EQ(error_of(), 0.0F);
}

TEST(KeepFp32, NestedRegionsAndDisabledOnes) {
  const Tensor weight = torch::randn({4, 4});
  const Tensor x = torch::randn({4, 4});
  mark_keep_fp32(weight);
  const Tensor expected = torch::mm(x, weight);
  const Autocast outer(torch::kCPU, torch::kBFloat16);
  EXPECT_TRUE(torch::mm(x, weight).equal(expected));
  {
    const Autocast half(torch::kCPU, torch::kHalf);
    EXPECT_TRUE(torch::mm(x, weight).equal(expected));
    const Autocast off(torch::kCPU, torch::kHalf, /*enabled=*/false);
    EXPECT_TRUE(torch::mm(x, weight).equal(expected));
  }
  EXPECT_EQ(torch::mm(x, x).scalar_type(), torch::kBFloat16);
}

TEST(KeepFp32, DoubleStaysDouble) {
  const Tensor weight = torch::randn({4, 4}, torch::kDouble);
  mark_keep_fp32(weight);
  const Autocast autocast(torch::kCPU, torch::kBFloat16);
  EXPECT_EQ(torch::mm(weight, weight).scalar_type(), torch::kDouble);
}

TEST(KeepFp32, MarksFollowTheParameterAndDieWithIt) {
  Tensor weight = torch::randn({4, 4}, torch::requires_grad());
  mark_keep_fp32(weight);
  weight.set_data(torch::randn({4, 4}));
  EXPECT_TRUE(keeps_fp32(weight));
  EXPECT_FALSE(keeps_fp32(weight.detach().clone()));
  weight.reset();
  for (int i = 0; i < 100; ++i) EXPECT_FALSE(keeps_fp32(torch::empty({4, 4})));
}

TEST(KeepFp32, MarkingAndComputingInManyThreads) {
  const Tensor kept = torch::ones({2, 2});
  mark_keep_fp32(kept);
  std::vector<std::thread> threads;
  std::vector<int> wrong(4);
  for (std::size_t i = 0; i < wrong.size(); ++i)
    threads.emplace_back([&, i] {
      const Autocast autocast(torch::kCPU, torch::kBFloat16);
      for (int k = 0; k < 200; ++k) {
        const Tensor own = torch::ones({2, 2});
        wrong[i] += torch::mm(own, own).scalar_type() != torch::kBFloat16;
        mark_keep_fp32(own);
        wrong[i] += torch::mm(own, own).scalar_type() != torch::kFloat;
        wrong[i] += torch::mm(own, kept).scalar_type() != torch::kFloat;
      }
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(wrong, testing::Each(0));
}

ModelConfig small_model() {
  return ModelConfig{.dim = 16, .n_layers = 3, .n_heads = 2, .n_kv_heads = 1, .vocab_size = 32};
}

TEST(KeepFp32, ReturnsAndLogsTheTopmostModules) {
  CausalLM model(small_model());
  LogLines log;
  EXPECT_THAT(keep_fp32(*model, {R"(layers\.1\.attention\b)", R"(layers\.0(\.|$))"}),
              ElementsAre("layers.0", "layers.1.attention"));
  EXPECT_THAT(log.lines, ElementsAre("kept in fp32: layers.0, layers.1.attention"));
  int kept = 0;
  for (const auto& parameter : model->named_parameters()) {
    const bool expected = parameter.key().starts_with("layers.0.") ||
                          parameter.key().starts_with("layers.1.attention.");
    EXPECT_EQ(keeps_fp32(parameter.value()), expected) << parameter.key();
    kept += expected;
  }
  EXPECT_GT(kept, 9);
}

TEST(KeepFp32, FindsModulesByTheNameOfTheirClass) {
  CausalLM model(small_model());
  LogLines log;
  const auto names = keep_fp32(*model, {"type:RmsNorm"});
  EXPECT_EQ(names.size(), 7U);  // two in each layer and the last one
  ASSERT_EQ(log.lines.size(), 1U);
  EXPECT_THAT(log.lines[0], HasSubstr(" and 1 more"));
  for (const auto& parameter : model->named_parameters())
    EXPECT_EQ(keeps_fp32(parameter.value()), parameter.key().find("norm") != std::string::npos);
}

TEST(KeepFp32, AWholeModelKeptIsTheModelInFp32) {
  LogLines log;
  for (const bool moe : {false, true}) {
    torch::manual_seed(6);
    ModelConfig config = small_model();
    config.use_moe = moe;
    CausalLM model(config);
    const Tensor ids = torch::randint(0, 32, {2, 7}, torch::kLong);
    const Tensor expected = model->forward(ids).logits;
    {
      const Autocast autocast(torch::kCPU, torch::kBFloat16);
      EXPECT_FALSE(model->forward(ids).logits.to(torch::kFloat).equal(expected));
    }
    keep_fp32(*model, {"layers|norm|embeddings"});
    const Autocast autocast(torch::kCPU, torch::kBFloat16);
    EXPECT_TRUE(model->forward(ids).logits.equal(expected));
  }
}

TEST(KeepFp32, PatternsThatAreNoUseAreErrors) {
  CausalLM model(small_model());
  EXPECT_THAT(message_of<UserError>([&] {
                keep_fp32(*model, {"norm", "layers.(0"});
              }),
              HasSubstr("expected a regular expression, got 'layers.(0'"));
  EXPECT_THAT(message_of<UserError>([&] { keep_fp32(*model, {"layers.0.attenton"}); }),
              HasSubstr("'layers.0.attenton' matches no module's path; did you mean "
                        "'layers.0.attention'?"));
  EXPECT_THAT(message_of<UserError>([&] { keep_fp32(*model, {"quite another model's pattern"}); }),
              HasSubstr("; there are layers, layers.0, layers.0.attention, "));
  EXPECT_THAT(message_of<UserError>([&] { keep_fp32(*model, {"type:RmsNrm"}); }),
              HasSubstr("'type:RmsNrm' matches no class of a module; did you mean 'RmsNorm'?"));
  torch::nn::Sequential bare(torch::nn::Linear(2, 2), torch::nn::ReLU());
  EXPECT_THAT(message_of<UserError>([&] { keep_fp32(*bare, {"type:ReLU"}); }),
              HasSubstr("'type:ReLU' matches only such without"));
  for (const Tensor& parameter : model->parameters()) EXPECT_FALSE(keeps_fp32(parameter));
}

TEST(KeepFp32, ACheckMarksNothingAndSaysNothing) {
  LogLines log;
  torch::nn::Sequential model(torch::nn::Linear(2, 2), torch::nn::ReLU());
  check_keep_fp32(*model, {"type:Linear"});
  for (const Tensor& parameter : model->parameters()) EXPECT_FALSE(keeps_fp32(parameter));
  EXPECT_THAT(log.lines, testing::IsEmpty());
  EXPECT_THAT(message_of<UserError>([&] {
                check_keep_fp32(*model, {"type:Linear", "norm"});
              }),
              HasSubstr("'norm' matches no module's path"));
}

// What takes exponential time or a deep stack elsewhere is matched, or refused, at once.
TEST(KeepFp32, PatternsOfStrangersCostLittle) {
  CausalLM model(small_model());
  EXPECT_THAT(message_of<UserError>([&] { keep_fp32(*model, {"((((.*)*)*)*)*x"}); }),
              HasSubstr("matches no module's path"));
  const std::string deep = std::string(400, '(') + std::string(400, ')');
  EXPECT_NO_THROW(check_keep_fp32_patterns({deep}));
  const std::string deeper = std::string(100'000, '(') + std::string(100'000, ')');
  EXPECT_THAT(message_of<UserError>([&] { check_keep_fp32_patterns({deeper}); }),
              HasSubstr("at most 1000 characters, got 200000"));
  EXPECT_THAT(message_of<UserError>([&] { check_keep_fp32_patterns({"(a{1000}){1000}"}); }),
              HasSubstr("expected a regular expression"));
}

}  // namespace
}  // namespace halftone::keep_fp32_test
