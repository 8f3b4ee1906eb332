// SPDX-License-Identifier: Apache-2.0
// Layers of halftone and of torch::nn under every recipe: which dtype each of them gives, and that
// a step of training moves all parameters in their own.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/nn/modules/activation.h>
#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/conv.h>
#include <torch/nn/modules/embedding.h>
#include <torch/nn/modules/linear.h>
#include <torch/nn/modules/normalization.h>
#include <torch/nn/modules/rnn.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "halftone/core/log.h"
#include "halftone/data/tensor_loader.h"
#include "halftone/nn/conv2d.h"
#include "halftone/nn/layer_norm.h"
#include "halftone/nn/linear.h"
#include "halftone/nn/multi_head_attention.h"
#include "halftone/nn/timestep_embedding.h"
#include "halftone/optim/adamw.h"
#include "halftone/precision/policy.h"
#include "halftone/train/trainer.h"

namespace halftone::any_module_test {
namespace {

using testing::Contains;
using testing::HasSubstr;
using testing::IsEmpty;
using torch::ScalarType;
using torch::Tensor;

/// Notes the dtype that each layer gives.
struct Noting : TrainingModule<> {
  std::vector<OptimizerSetup> configure_optimizers(const OptimizerContext& context) override {
    return {std::make_shared<AdamW>(parameters(), context.adamw({.lr = 0.05}))};
  }
  const Tensor& noted(const std::string& name, const Tensor& y) {
    dtypes[name] = y.scalar_type();
    return y;
  }
  std::map<std::string, ScalarType> dtypes;
};

/// Pictures that attend to others, at a time.
struct Ours : Noting {
  Ours() {
    conv = register_module(
        "conv", Conv2d(Conv2dOptions{
                    .in_channels = 3, .out_channels = 8, .kernel = {3, 3}, .padding = {1, 1}}));
    group_norm = register_module("group_norm", GroupNorm(2, 8));
    patches = register_module(
        "patches", Conv2d(Conv2dOptions{
                       .in_channels = 8, .out_channels = 16, .kernel = {4, 4}, .stride = {4, 4}}));
    layer_norm = register_module("layer_norm", LayerNorm(16));
    attention = register_module(
        "attention", MultiHeadAttention(MultiHeadAttentionOptions{
                         .dim = 16, .context_dim = 16, .n_heads = 2, .has_qk_norm = true}));
    time = register_module("time", TimestepEmbedding(16, 8));
  }
  Tensor training_step(const Batch& batch, std::int64_t /*index*/) override {
    Tensor x = noted("conv", conv(batch.data));
    x = noted("patches", patches(torch::silu(noted("group_norm", group_norm(x)))));
    x = noted("layer_norm", layer_norm(x.flatten(2).transpose(1, 2)));
    x = noted("attention", attention(x, x + noted("time", time(batch.target)).unsqueeze(1)));
    return x.to(torch::kFloat).square().mean();
  }
  Conv2d conv{nullptr}, patches{nullptr};
  GroupNorm group_norm{nullptr};
  LayerNorm layer_norm{nullptr};
  MultiHeadAttention attention{nullptr};
  TimestepEmbedding time{nullptr};
};

/// The same and more of LibTorch's, and one layer of ours, which the quantizing recipes want.
struct LibTorchs : Noting {
  LibTorchs() {
    conv = register_module("conv", torch::nn::Conv2d(torch::nn::Conv2dOptions(3, 8, 3).padding(1)));
    group_norm =
        register_module("group_norm", torch::nn::GroupNorm(torch::nn::GroupNormOptions(2, 8)));
    batch_norm = register_module("batch_norm", torch::nn::BatchNorm2d(8));
    transposed = register_module(
        "transposed",
        torch::nn::ConvTranspose2d(torch::nn::ConvTranspose2dOptions(8, 16, 2).stride(2)));
    layer_norm =
        register_module("layer_norm", torch::nn::LayerNorm(torch::nn::LayerNormOptions({16})));
    attention = register_module(
        "attention", torch::nn::MultiheadAttention(torch::nn::MultiheadAttentionOptions(16, 2)));
    lstm = register_module("lstm", torch::nn::LSTM(16, 16));
    table = register_module("table", torch::nn::Embedding(10, 16));
    linear = register_module("linear", torch::nn::Linear(16, 16));
    ours = register_module("ours", Linear(16, 16));
  }
  Tensor training_step(const Batch& batch, std::int64_t /*index*/) override {
    Tensor x = torch::silu(noted("group_norm", group_norm(noted("conv", conv(batch.data)))));
    x = noted("transposed", transposed(torch::silu(noted("batch_norm", batch_norm(x)))));
    x = noted("layer_norm", layer_norm(x.mean(3).permute({2, 0, 1})));
    x = noted("attention", std::get<0>(attention(x, x, x)));
    x = noted("lstm", std::get<0>(lstm(x)));
    x = x + noted("table", table(batch.target.to(torch::kLong)));
    x = noted("ours", ours(noted("linear", linear(x))));
    return x.to(torch::kFloat).square().mean();
  }
  torch::nn::Conv2d conv{nullptr};
  torch::nn::GroupNorm group_norm{nullptr};
  torch::nn::BatchNorm2d batch_norm{nullptr};
  torch::nn::ConvTranspose2d transposed{nullptr};
  torch::nn::LayerNorm layer_norm{nullptr};
  torch::nn::MultiheadAttention attention{nullptr};
  torch::nn::LSTM lstm{nullptr};
  torch::nn::Embedding table{nullptr};
  torch::nn::Linear linear{nullptr};
  Linear ours{nullptr};
};

/// Trains two steps; returns the warnings.
template <class Module>
std::vector<std::string> train(Module& module, const std::string& precision) {
  TensorLoader loader({torch::randn({8, 3, 8, 8}), torch::arange(8).to(torch::kFloat)},
                      {.batch_size = 4});
  std::vector<std::string> warnings;
  set_log_sink([&](LogLevel level, const std::string& message) {
    if (level == LogLevel::kWarning) warnings.push_back(message);
  });
  Trainer({.max_steps = 2, .precision = precision, .accelerator = "cpu"}).fit(module, loader);
  set_log_sink({});
  return warnings;
}

/// All of a fitted module's parameters have moved, and are finite and of the recipe's dtype.
template <class Module>
void expect_trained(const Module& module, const std::map<std::string, Tensor>& before,
                    const PrecisionPolicy& policy) {
  for (const auto& parameter : module.named_parameters()) {
    SCOPED_TRACE(parameter.key());
    const Tensor& now = parameter.value();
    EXPECT_EQ(now.scalar_type(), policy.parameter);
    EXPECT_TRUE(now.isfinite().all().template item<bool>());
    EXPECT_FALSE(now.to(torch::kFloat)
                     .equal(before.at(parameter.key()).to(policy.parameter).to(torch::kFloat)));
  }
}

template <class Module>
std::map<std::string, Tensor> copies_of(const Module& module) {
  std::map<std::string, Tensor> copies;
  for (const auto& parameter : module.named_parameters())
    copies[parameter.key()] = parameter.value().detach().clone();
  return copies;
}

/// What a layer that multiplies gives, and what a norm with weights gives.
ScalarType product_dtype(const PrecisionPolicy& policy) { return policy.compute_dtype(); }
ScalarType norm_dtype(const PrecisionPolicy& policy) { return policy.parameter; }

TEST(AnyModule, OursTrainInEveryRecipe) {
  for (const std::string& name : precision_names()) {
    SCOPED_TRACE(name);
    torch::manual_seed(1);
    Ours module;
    const auto before = copies_of(module);
    const PrecisionPolicy policy = parse_precision(name);
    EXPECT_THAT(train(module, name), IsEmpty());
    expect_trained(module, before, policy);
    for (const char* const layer : {"conv", "patches", "attention", "time"})
      EXPECT_EQ(module.dtypes.at(layer), product_dtype(policy)) << layer;
    for (const char* const layer : {"group_norm", "layer_norm"})
      EXPECT_EQ(module.dtypes.at(layer), norm_dtype(policy)) << layer;
  }
}

// Norms of LibTorch's give the dtype of their input on the CPU; their statistics are fp32 or wider.
TEST(AnyModule, LibTorchsTrainInEveryRecipeInTheirDtypes) {
  for (const std::string& name : precision_names()) {
    SCOPED_TRACE(name);
    torch::manual_seed(1);
    LibTorchs module;
    const auto before = copies_of(module);
    const PrecisionPolicy policy = parse_precision(name);
    const std::vector<std::string> warnings = train(module, name);
    expect_trained(module, before, policy);
    for (const char* const layer : {"conv", "group_norm", "batch_norm", "transposed", "layer_norm",
                                    "attention", "lstm", "linear", "ours"})
      EXPECT_EQ(module.dtypes.at(layer), product_dtype(policy)) << layer;
    EXPECT_EQ(module.dtypes.at("table"), policy.parameter);
    if (!policy.quantizes()) continue;
    // Nothing that does not quantize goes without a word.
    for (const char* const layer :
         {"1 torch::nn::Conv2d of this module stay in", "1 torch::nn::ConvTranspose2d",
          "1 torch::nn::LSTM", "must be halftone::MultiHeadAttention",
          "torch::nn::Linear of this module stay in"})
      EXPECT_THAT(warnings, Contains(HasSubstr(layer)));
  }
}

}  // namespace
}  // namespace halftone::any_module_test
