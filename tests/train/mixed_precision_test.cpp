// SPDX-License-Identifier: Apache-2.0
#include "halftone/train/mixed_precision.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/embedding.h>
#include <torch/nn/modules/linear.h>
#include <torch/nn/modules/rnn.h>
#include <torch/optim/adam.h>

#include <limits>

#include "halftone/data/tensor_loader.h"
#include "halftone/optim/adamw.h"
#include "halftone/train/trainer.h"

namespace halftone::mixed_precision_test {
namespace {

using testing::ElementsAre;
using torch::Tensor;

MixedPrecision precision_of(const char* name, MemoryPolicy memory = {}) {
  return {parse_precision(name), {}, torch::kCPU, std::move(memory)};
}

/// Every kind of tensor that a module may hold.
struct Kinds : torch::nn::Module {
  Kinds() {
    norm = register_module("norm", torch::nn::BatchNorm1d(4));
    plain_norm = register_module(
        "plain_norm",
        torch::nn::BatchNorm1d(torch::nn::BatchNormOptions(4).track_running_stats(false)));
    rnn = register_module("rnn", torch::nn::LSTM(4, 4));
    ids = register_buffer("ids", torch::arange(300) + (std::int64_t{1} << 40U));
    mask = register_buffer("mask", torch::ones({4, 4}, torch::kBool).tril());
    bytes = register_buffer("bytes", torch::arange(256, torch::kByte));
    table = register_buffer("table", torch::randn({4}));
    spectrum = register_parameter("spectrum", torch::randn({4}, torch::kComplexFloat));
    counts = register_parameter("counts", torch::arange(3), /*requires_grad=*/false);
    wide = register_parameter("wide", torch::randn({4}, torch::kDouble));
  }
  torch::nn::BatchNorm1d norm{nullptr}, plain_norm{nullptr};
  torch::nn::LSTM rnn{nullptr};
  Tensor ids, mask, bytes, table, spectrum, counts, wide;
};

TEST(MixedPrecision, ConvertsFloatingTensorsOnly) {
  for (const char* name : {"32-true", "16-true", "bf16-true", "16-mixed", "bf16-mixed"}) {
    SCOPED_TRACE(name);
    Kinds module;
    const std::vector<Tensor> others = {module.ids,    module.mask,
                                        module.bytes,  module.spectrum,
                                        module.counts, module.norm->num_batches_tracked};
    std::vector<Tensor> before;
    for (const Tensor& tensor : others) before.push_back(tensor.detach().clone());
    MixedPrecision precision = precision_of(name);
    precision.convert_module(module);
    for (std::size_t i = 0; i < others.size(); ++i) {
      EXPECT_EQ(others[i].scalar_type(), before[i].scalar_type()) << i;
      EXPECT_TRUE(torch::equal(others[i], before[i])) << i;
    }
    const torch::ScalarType dtype = parse_precision(name).parameter;
    for (const Tensor& tensor : {module.table, module.wide, module.norm->weight,
                                 module.norm->running_mean, module.rnn->parameters().front()})
      EXPECT_EQ(tensor.scalar_type(), dtype);
  }
}

/// A weight whose gradient is `slope` everywhere, and one whose gradient is 1. Adam moves either by
/// its learning rate.
struct Steep : TrainingModule<> {
  explicit Steep(float the_slope) : slope(the_slope) {
    steep = register_parameter("steep", torch::zeros({4}));
    flat = register_parameter("flat", torch::zeros({4}));
  }
  Tensor training_step(const Batch& batch, std::int64_t /*index*/) override {
    return (steep * slope + flat).sum() + 0.0 * batch.data.sum();
  }
  std::vector<OptimizerSetup> configure_optimizers(const OptimizerContext& /*context*/) override {
    return {std::make_shared<torch::optim::Adam>(parameters(), 0.1)};
  }
  float slope;
  Tensor steep, flat;
};

/// The metrics of one step.
StepMetrics trained(Steep& module, TrainerOptions options) {
  struct Collector : Callback {
    void on_step_end(Trainer& /*trainer*/, const StepMetrics& metrics) override { last = metrics; }
    StepMetrics last;
  };
  TensorLoader loader({torch::zeros({4, 1}), torch::zeros({4, 1})}, {.batch_size = 4});
  options.max_steps = 1;
  options.accelerator = "cpu";
  const auto collector = std::make_shared<Collector>();
  options.callbacks = {collector};
  Trainer(options).fit(module, loader);
  return collector->last;
}

// The squares of 1e20 are beyond fp32, and the norm is measured whether it clips or not.
TEST(MixedPrecision, TakesFiniteGradientsOfAnySizeWithLibTorchsOptimizers) {
  for (const auto& [clip, algorithm] :
       {std::pair(0.0, "norm"), {1.0, "norm"}, {1e30, "norm"}, {1.0, "value"}}) {
    SCOPED_TRACE(clip);
    Steep module(1e20F);
    const StepMetrics metrics =
        trained(module, {.gradient_clip_val = clip, .gradient_clip_algorithm = algorithm});
    EXPECT_FALSE(metrics.skipped);
    EXPECT_NEAR(metrics.grad_norm.value() / 2e20, 1.0, 1e-6);
    EXPECT_NEAR(module.steep.detach()[0].item<double>(), -0.1, 1e-5);
    if (clip == 1.0 && std::string(algorithm) == "norm") continue;  // clipped to next to nothing
    EXPECT_NEAR(module.flat.detach()[0].item<double>(), -0.1, 1e-5);
  }
}

// Clipping by a norm that is nan must not make nan of the others before they are named.
TEST(MixedPrecision, NamesTheOneGradientThatOverflowedWhereItClips) {
  for (const float slope : {std::numeric_limits<float>::infinity(), NAN}) {
    Steep module(slope);
    const StepMetrics metrics = trained(module, {.gradient_clip_val = 1.0});
    EXPECT_TRUE(metrics.skipped);
    EXPECT_THAT(metrics.overflow, ElementsAre("steep"));
  }
}

/// A frozen layer below one that is trained, all of them given to the optimizer.
struct Frozen : TrainingModule<> {
  Frozen() {
    torch::manual_seed(1);
    below = register_module("below", torch::nn::Linear(64, 64));
    above = register_module("above", torch::nn::Linear(64, 64));
    unused = register_module("unused", torch::nn::Linear(64, 64));
    for (Tensor& parameter : below->parameters()) parameter.set_requires_grad(false);
  }
  Tensor training_step(const Batch& batch, std::int64_t /*index*/) override {
    const Tensor x = batch.data.to(below->weight.scalar_type());
    return above(below(x).relu()).to(torch::kFloat).square().mean();
  }
  std::vector<OptimizerSetup> configure_optimizers(const OptimizerContext& context) override {
    return {std::make_shared<AdamW>(parameters(), context.adamw({.lr = 0.1, .weight_decay = 0.5}))};
  }
  torch::nn::Linear below{nullptr}, above{nullptr}, unused{nullptr};
};

TEST(MixedPrecision, LeavesFrozenParametersAlone) {
  torch::manual_seed(2);
  const Tensor x = torch::randn({16, 64});
  for (const char* precision : {"32-true", "16-true", "bf16-true", "16-mixed", "bf16-mixed"})
    for (const char* memory : {"standard", "lean", "leanest"})
      for (const char* algorithm : {"norm", "value"}) {
        const std::string name(precision), recipe(memory);
        const bool released = recipe == "leanest";
        if (released && (name.starts_with("16") || std::string(algorithm) == "value")) continue;
        SCOPED_TRACE(name + " " + recipe + " " + algorithm);
        Frozen module;
        TensorLoader loader({x, torch::zeros({16, 1})}, {.batch_size = 4});
        const Tensor below = module.below->weight.detach().clone();
        const Tensor unused = module.unused->weight.detach().clone();
        const Tensor above = module.above->weight.detach().clone();
        Trainer({.max_steps = 5,
                 .precision = precision,
                 .accelerator = "cpu",
                 .gradient_clip_val = 1.0,
                 .gradient_clip_algorithm = algorithm,
                 .memory = {.memory = memory}})
            .fit(module, loader);
        const torch::ScalarType now = module.below->weight.scalar_type();
        EXPECT_TRUE(module.below->weight.equal(below.to(now)));
        EXPECT_TRUE(module.unused->weight.equal(unused.to(now)));
        EXPECT_FALSE(module.above->weight.equal(above.to(now)));
      }
}

}  // namespace
}  // namespace halftone::mixed_precision_test
