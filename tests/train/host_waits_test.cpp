// SPDX-License-Identifier: Apache-2.0
// How often a training step makes the host wait for the device.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "halftone/kernels/gemm/cpu_gemm_config.h"
#include "halftone/models/causal_lm.h"
#include "halftone/optim/adamw.h"
#include "halftone/train/fit_loop.h"
#include "support/on_devices.h"

namespace halftone::host_waits_test {
namespace {

using torch::Tensor;

using TokenPair = torch::data::Example<>;  // ids and targets

class SmallModel : public TrainingModule<TokenPair> {
 public:
  explicit SmallModel(bool use_moe)
      : model_(register_module("model", CausalLM(ModelConfig{.dim = 64,
                                                             .n_layers = 2,
                                                             .n_heads = 4,
                                                             .n_kv_heads = 2,
                                                             .vocab_size = 128,
                                                             .max_seq_len = 64,
                                                             .use_moe = use_moe}))) {}

  Tensor training_step(const TokenPair& batch, std::int64_t /*index*/) override {
    const Tensor loss =
        model_->loss(batch.data, batch.target, torch::ones(batch.data.sizes(), batch.data.device()))
            .total();
    log("twice", loss * 2);
    return loss;
  }
  std::vector<OptimizerSetup> configure_optimizers(const OptimizerContext& context) override {
    std::vector<std::pair<std::string, Tensor>> named;
    for (const auto& item : model_->named_parameters())
      named.emplace_back(item.key(), item.value());
    return {std::make_shared<AdamW>(std::move(named), context.adamw())};
  }

 private:
  CausalLM model_;
};

std::vector<TokenPair> batches(std::size_t count) {
  std::vector<TokenPair> made;
  for (std::size_t i = 0; i < count; ++i) {
    const Tensor ids = torch::randint(128, {2, 17}, torch::kLong);
    made.emplace_back(ids.narrow(1, 0, 16).contiguous(), ids.narrow(1, 1, 16).contiguous());
  }
  return made;
}

/// What the host waited for in the last of three steps, of `accumulate` batches each.
std::vector<std::string> waits_of_a_step(const torch::Device& device, const std::string& precision,
                                         const std::string& memory, std::int64_t accumulate = 1,
                                         bool use_moe = false) {
  torch::manual_seed(1);
  const PrecisionPolicy policy = parse_precision(precision);
  SmallModel module(use_moe);
  if (!device.is_cuda()) test::move_to_stand_in(module);
  std::vector<TokenPair> data = batches(static_cast<std::size_t>(3 * accumulate));
  ModuleTrainingTask<SmallModel, std::vector<TokenPair>> task(module, data);
  MixedPrecision mixed(policy, {}, device, memory_policy({.memory = memory}, policy));
  FitLoop loop(task, mixed,
               {.limits = {.max_steps = 3}, .accumulate = accumulate, .clip = {.value = 1.0}});
  loop.step();
  const StepMetrics before = loop.step();
  const test::HostWaits waits;
  const StepMetrics after = loop.step();
  EXPECT_TRUE(std::isfinite(after.loss) && after.loss > 0.0 && after.loss != before.loss);
  EXPECT_NEAR(after.logged.at("twice"), 2 * after.loss, 1e-2);
  EXPECT_GT(after.grad_norm.value_or(0.0), 0.0);
  return waits.seen();
}

using HostWaits = test::OnDevices;
HALFTONE_OFF_THE_CPU(HostWaits);

TEST_P(HostWaits, SeesReadsAndCopiesThatAreNotQueued) {
  const test::HostWaits waits;
  const Tensor one = torch::ones({3}).to(device());
  EXPECT_EQ(one.sum().item<float>(), 3.0F);
  EXPECT_EQ((one + 1).cpu()[1].item<float>(), 2.0F);
  const Tensor queued = torch::ones({2}).pin_memory().to(device(), /*non_blocking=*/true);
  EXPECT_EQ(queued.to(torch::kCPU, /*non_blocking=*/true).numel(), 2);
  EXPECT_EQ(to_device(torch::ones({2}), device(), torch::kHalf).scalar_type(), torch::kHalf);
  EXPECT_THAT(waits.seen(), testing::SizeIs(3));  // there, the sum, and back
}

TEST_P(HostWaits, AStepWaitsOnceInEveryPrecision) {
  for (const std::string& precision : precision_names()) {
    SCOPED_TRACE(precision);
    EXPECT_THAT(waits_of_a_step(device(), precision, "standard"), testing::SizeIs(1));
  }
}

TEST_P(HostWaits, AStepOfSeveralMicroBatchesWaitsOnce) {
  EXPECT_THAT(waits_of_a_step(device(), "16-mixed", "standard", 3), testing::SizeIs(1));
}

TEST_P(HostWaits, AStepWithNarrowStatesWaitsOnce) {
  EXPECT_THAT(waits_of_a_step(device(), "bf16-mixed", "lean"), testing::SizeIs(1));
}

// What each expert gets is a shape, which the host must know.
TEST_P(HostWaits, AStepOfExpertsWaitsOnceMoreForEachOfTheirLayers) {
  constexpr std::size_t kLayers = 2;
  EXPECT_THAT(waits_of_a_step(device(), "bf16-mixed", "standard", 1, /*use_moe=*/true),
              testing::SizeIs(1 + kLayers));
}

// How the CPU's matmuls are made is measured when it is first asked for.
TEST_P(HostWaits, AStepAsksNothingOfTheCpusMatmuls) {
  if (decided_matmul_paths()) GTEST_SKIP() << "another case has asked in this process";
  for (const std::string& precision : precision_names()) {
    waits_of_a_step(device(), precision, "standard");
    EXPECT_FALSE(decided_matmul_paths()) << precision;
  }
}

// The scaler and the optimizer alone: what is never asked for results never waits.
TEST_P(HostWaits, TheScalerWaitsForNothing) {
  const auto weight = here(torch::randn({8, 8})).requires_grad_();
  AdamW adamw({{"weight", weight}});
  GradScaler scaler;
  for (int i = 0; i < 3; ++i) {
    const test::HostWaits waits;
    adamw.zero_grad();
    scaler.scale((weight * weight).sum()).backward();
    scaler.step_async(adamw, {.clip_norm = 1.0});
    scaler.update();
    if (i == 0) continue;  // makes the scale
    EXPECT_THAT(waits.seen(), testing::IsEmpty());
  }
}

}  // namespace
}  // namespace halftone::host_waits_test
