// SPDX-License-Identifier: Apache-2.0
// What the loop says when no update is possible any more: the micro-batch that failed is computed
// once more, as it was computed then.
#include <ATen/ops/dropout.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/nn/modules/linear.h>
#include <torch/optim/sgd.h>

#include <cmath>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "halftone/core/error.h"
#include "halftone/core/random.h"
#include "halftone/data/tensor_loader.h"
#include "halftone/kernels/gemm/cpu_gemm_config.h"
#include "halftone/nn/linear.h"
#include "halftone/nn/recompute.h"
#include "halftone/train/fit_loop.h"
#include "support/message_of.h"

namespace halftone::step_replay_test {
namespace {

using test::message_of;
using testing::HasSubstr;
using testing::Not;
using torch::Tensor;

/// Two layers, and between them what a test wants.
struct Steps : TrainingModule<> {
  using Middle = std::function<Tensor(const Tensor&)>;
  explicit Steps(Middle what) : middle(std::move(what)) {}

  Tensor training_step(const Batch& batch, std::int64_t /*index*/) override {
    count_tokens(batch.data.size(0));
    return last(middle(first(batch.data))).square().mean();
  }
  std::vector<OptimizerSetup> configure_optimizers(const OptimizerContext& /*context*/) override {
    return {std::make_shared<torch::optim::SGD>(parameters(), torch::optim::SGDOptions(1e-3))};
  }

  Middle middle;
  torch::nn::Linear first = register_module("first", torch::nn::Linear(4, 4));
  torch::nn::Linear last = register_module("last", torch::nn::Linear(4, 4));
};

struct Recipe {
  std::string precision = "32-true";
  std::int64_t accumulate = 1;
  std::int64_t skips = 1;  // until the loop gives up
};

/// The message of the step that fails, and the metrics that were recorded with it.
std::pair<std::string, StepMetrics> failure(TrainingModule<>& module, const Tensor& data,
                                            const Recipe& recipe) {
  TensorLoader loader({data, torch::zeros({data.size(0), 1})}, {.batch_size = 2});
  ModuleTrainingTask task(module, loader);
  MixedPrecision precision(parse_precision(recipe.precision),
                           {.init_scale = 1, .max_skips_at_floor = recipe.skips}, torch::kCPU);
  FitLoop loop(task, precision,
               {.limits = {.max_steps = 20}, .accumulate = recipe.accumulate, .seed = 11});
  struct Last : StepHooks {
    void add_metrics(StepMetrics& step) override { metrics = step; }
    StepMetrics metrics;
  } last;
  const std::string message = message_of<SystemError>([&] {
    while (!loop.finished()) loop.step(last);
  });
  return {message, last.metrics};
}

Tensor healthy_rows(std::int64_t rows) {
  return torch::linspace(-1, 1, rows * 4).reshape({rows, 4});
}

// First of all in this process: it asks whether anything has asked for the ways of the matmuls.
TEST(StepReplay, NeverAsksForWaysThatNoProductTakes) {
  ASSERT_FALSE(decided_matmul_paths().has_value());
  Steps module([](const Tensor& x) { return x; });
  TensorLoader loader({healthy_rows(4), torch::zeros({4, 1})}, {.batch_size = 2});
  ModuleTrainingTask task(module, loader);
  MixedPrecision precision(parse_precision("32-true"), {}, torch::kCPU);
  FitLoop loop(task, precision, {.limits = {.max_steps = 3}});
  loop.step();
  const Checkpoint checkpoint = loop.checkpoint();
  EXPECT_FALSE(decided_matmul_paths().has_value()) << "half a second of measuring for nothing";
  EXPECT_FALSE(checkpoint.trainer.values.contains("matmul_paths"));
  EXPECT_NO_THROW(loop.load_checkpoint(checkpoint));
  EXPECT_FALSE(decided_matmul_paths().has_value());

  const CpuGemmConfig ways = parse_cpu_gemm_config("upcast,blas");
  set_cpu_gemm_config(ways);
  const Checkpoint with_ways = loop.checkpoint();
  EXPECT_EQ(with_ways.trainer.get<std::string>("matmul_paths"), to_string(ways));
  set_cpu_gemm_config(parse_cpu_gemm_config("native,blas"));
  loop.load_checkpoint(with_ways);
  EXPECT_EQ(cpu_gemm_config(), ways);
}

TEST(StepReplay, NamesTheMicroBatchWhoseLossIsBad) {
  Steps module([](const Tensor& x) { return x.exp(); });
  const Tensor data = healthy_rows(6);
  {
    const torch::NoGradGuard no_grad;
    module.first->weight.fill_(1);
    data[3].fill_(1e3);  // of the second micro-batch
  }
  const auto [message, metrics] = failure(module, data, {.accumulate = 3});
  EXPECT_THAT(message,
              HasSubstr("aten::exp, after 'first.bias' makes the first non-finite value of the "
                        "forward pass, in micro-batch 2 of 3"));
  EXPECT_EQ(metrics.tokens, 6);
}

// Every loss is finite: only the second micro-batch's gradient is not.
TEST(StepReplay, NamesTheMicroBatchWhoseGradientIsBad) {
  Steps module([](const Tensor& x) { return (x - x.detach() + x.detach().floor()).abs().sqrt(); });
  Tensor data = torch::full({6, 4}, 1.0F);
  {
    const torch::NoGradGuard no_grad;
    module.first->weight.fill_(1);
    module.first->bias.fill_(0.5);
    data[3].fill_(0);  // sqrt has an infinite slope there
  }
  const auto [message, metrics] = failure(module, data, {.accumulate = 3});
  EXPECT_TRUE(std::isfinite(metrics.loss));
  EXPECT_THAT(message, HasSubstr("the backward pass of aten::sqrt"));
  EXPECT_THAT(message, HasSubstr("in micro-batch 2 of 3"));
}

TEST(StepReplay, SaysWhenOnlyTheSumOfMicroBatchesIsBad) {
  // Each micro-batch has a gradient of 50,000, and fp16 ends at 65,504.
  struct Line : TrainingModule<> {
    Tensor training_step(const Batch& /*batch*/, std::int64_t /*index*/) override {
      return (slope.to(torch::kFloat) * 1e5).sum();
    }
    std::vector<OptimizerSetup> configure_optimizers(const OptimizerContext& /*context*/) override {
      return {std::make_shared<torch::optim::SGD>(parameters(), torch::optim::SGDOptions(1e-3))};
    }
    Tensor slope = register_parameter("slope", torch::ones({1}));
  } module;
  const auto [message, metrics] =
      failure(module, healthy_rows(4), {.precision = "16-true", .accumulate = 2});
  EXPECT_THAT(message, HasSubstr("each of the 2 micro-batches has finite gradients, the sum of "
                                 "them is not finite"));
}

// The mask decides whether there is an overflow: another one says nothing, or something else.
TEST(StepReplay, DrawsTheSameDropout) {
  torch::manual_seed(21);
  std::vector<std::vector<float>> seen;
  Steps module([&](const Tensor& x) {
    const Tensor mask = at::dropout(torch::ones({64}), 0.5, /*train=*/true);
    seen.emplace_back(mask.data_ptr<float>(), mask.data_ptr<float>() + 64);
    const Tensor bad = mask.narrow(0, 0, 4).eq(0).all();
    return torch::where(bad, (x.abs() + 1).log() * 1e38 * 1e38, x);
  });
  const auto [message, metrics] = failure(module, healthy_rows(2), {.skips = 1});
  ASSERT_THAT(message, HasSubstr("aten::mul"));
  EXPECT_EQ(seen[seen.size() - 1], seen[seen.size() - 2]) << "the replay has a mask of its own";
}

TEST(StepReplay, RoundsByTheSameRandomNumbers) {
  struct Int8Steps : TrainingModule<> {
    Tensor training_step(const Batch& batch, std::int64_t /*index*/) override {
      types.push_back(compute_context().compute);
      streams.push_back(compute_context().streams.again().next());
      return (layer(batch.data) * 1e30).square().mean();
    }
    std::vector<OptimizerSetup> configure_optimizers(const OptimizerContext& /*context*/) override {
      return {std::make_shared<torch::optim::SGD>(parameters(), torch::optim::SGDOptions(1e-3))};
    }
    Linear layer = register_module("layer", Linear(4, 4));
    std::vector<ComputeType> types;
    std::vector<std::uint64_t> streams;  // of the next layer
  } module;
  failure(module, healthy_rows(4), {.precision = "int8-mixed", .accumulate = 2, .skips = 3});
  ASSERT_EQ(module.streams.size(), 3 * 2 + 1);
  EXPECT_EQ(module.streams.back(), RoundingStreams(/*seed=*/11, /*pass=*/4).next())
      << "the pass of the last step's first micro-batch";
  EXPECT_EQ(module.streams.back(), module.streams[4]);
  EXPECT_EQ(module.types.back(), ComputeType::kInt8);
}

TEST(StepReplay, LeavesTheGeneratorsWhereTheStepLeftThem) {
  torch::manual_seed(5);
  Steps module([](const Tensor& x) { return at::dropout(x, 0.5, true) * 1e38 * 1e38; });
  failure(module, healthy_rows(4), {.accumulate = 2});
  const Tensor after = torch::rand({4});
  torch::manual_seed(5);
  Steps again([](const Tensor& x) { return at::dropout(x, 0.5, true) * 1e38 * 1e38; });
  again.training_step({healthy_rows(4).narrow(0, 0, 2), {}}, 0);
  again.training_step({healthy_rows(4).narrow(0, 2, 2), {}}, 1);
  EXPECT_TRUE(torch::rand({4}).equal(after));
}

}  // namespace
}  // namespace halftone::step_replay_test
