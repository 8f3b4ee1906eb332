// SPDX-License-Identifier: Apache-2.0
// Seconds of a step against the textbook's 6 flops per weight and token.
#include "halftone/plan/step_time.h"

#include <gtest/gtest.h>

#include <string>

#include "halftone/core/error.h"

namespace halftone::step_time_test {
namespace {

constexpr double kFast = 1e18;  // of what is not looked at

ModelConfig model() {
  return {.dim = 256,
          .n_layers = 4,
          .n_heads = 4,
          .n_kv_heads = 2,
          .hidden_dim = 768,
          .vocab_size = 8000};
}

/// Weights of matrices that every token is multiplied by; the embedding is looked up.
constexpr double kLayerWeights = 4.0 * (2 * 256 * 256 + 2 * 256 * 128 + 3 * 256 * 768);
constexpr double kHeadWeights = 8000.0 * 256;

double seconds(const std::string& precision, const MemoryOptions& memory, const StepShape& shape,
               const MachineSpeed& speed, const ModelConfig& config = model()) {
  const PrecisionPolicy policy = parse_precision(precision);
  const NumericsConfig recipe{policy, memory_policy(memory, policy)};
  return step_seconds(config, shape, recipe, peak_memory(config, shape, recipe, 0), speed);
}

MachineSpeed all_at(double flops) {
  MachineSpeed speed{.memory = kFast};
  for (const ComputeType type : compute_types()) speed.matmuls[type] = flops;
  return speed;
}

TEST(StepSeconds, AreSixFlopsAWeightAndToken) {
  const StepShape shape{.batch_size = 64, .predictions = 8};  // short rows: hardly any attention
  const double expected = 6 * (kLayerWeights + kHeadWeights) * 64 * 8 / 1e11;
  EXPECT_NEAR(seconds("32-true", {}, shape, all_at(1e11)), expected, 0.01 * expected);
}

TEST(StepSeconds, CountTheHalfOfAttentionThatIsCausal) {
  const StepShape longer{.batch_size = 1, .predictions = 4096};
  const double matmuls = 6 * (kLayerWeights + kHeadWeights) * 4096 / 1e11;
  // Scores and weighted sums, a half of each: 2 flops, width, keys; 2 matmuls forward, 5 backward,
  // at 0.6 of the speed.
  const double attention = 7 * 4.0 * 256 * 4096 * 4096 / (0.6 * 1e11);
  EXPECT_NEAR(seconds("32-true", {}, longer, all_at(1e11)), matmuls + attention,
              0.01 * (matmuls + attention));
}

TEST(StepSeconds, FollowTheSpeedOfTheirOwnFormat) {
  const StepShape shape{.batch_size = 64, .predictions = 8};
  MachineSpeed speed = all_at(1e11);
  const double slow = seconds("bf16-mixed", {}, shape, speed);
  for (const char* precision : {"32-true", "bf16-mixed", "16-mixed", "int8-mixed"})
    EXPECT_NEAR(seconds(precision, {}, shape, speed), slow, 1e-6 * slow) << precision;
  speed.matmuls[ComputeType::kBFloat16] = 2e11;
  EXPECT_NEAR(seconds("bf16-mixed", {}, shape, speed), slow / 2, 0.01 * slow);
  EXPECT_NEAR(seconds("bf16-true", {}, shape, speed), slow / 2, 0.01 * slow);
  EXPECT_NEAR(seconds("16-mixed", {}, shape, speed), slow, 0.01 * slow);
  speed.matmuls[ComputeType::kInt8] = 4e11;
  EXPECT_NEAR(seconds("int8-mixed", {}, shape, speed), slow / 4, 0.02 * slow);
  speed.matmuls[ComputeType::kFloat16] = 5e11;
  EXPECT_NEAR(seconds("16-mixed", {}, shape, speed), slow / 5, 0.02 * slow);
}

TEST(StepSeconds, RunTheLayersOnceMoreWhenTheyAreRecomputed) {
  const StepShape shape{.batch_size = 64, .predictions = 8};
  const double once = seconds("32-true", {}, shape, all_at(1e11));
  const double twice = seconds("32-true", {.recompute = "blocks"}, shape, all_at(1e11));
  const double again = 2 * kLayerWeights * 64 * 8 / 1e11;
  EXPECT_NEAR(twice - once, again, 0.02 * again);
}

TEST(StepSeconds, GrowWithMicroBatches) {
  const double one = seconds("32-true", {}, {8, 8, 1}, all_at(1e11));
  EXPECT_NEAR(seconds("32-true", {}, {8, 8, 3}, all_at(1e11)), 3 * one, 0.01 * one);
}

TEST(StepSeconds, MoveTheOptimizersBuffersAtTheSpeedOfMemory) {
  const StepShape shape{.batch_size = 1, .predictions = 1};
  MachineSpeed speed = all_at(kFast);
  speed.memory = 1e10;
  // Gradients are zeroed, added to, measured and applied: 5 passes; weights and two moments are
  // read and written. 4 bytes each.
  const double expected = 4.0 * static_cast<double>(parameter_count(model())) * (5 + 2 * 3) / 1e10;
  EXPECT_NEAR(seconds("32-true", {}, shape, speed), expected, 0.02 * expected);
}

TEST(StepSeconds, CountWhatATreeOfSumsMoves) {
  const StepShape flat{.batch_size = 1, .predictions = 1, .micro_batches = 4};
  StepShape tree = flat;
  tree.tree_sum = true;
  MachineSpeed speed = all_at(kFast);
  speed.memory = 1e10;
  // Each of three that are set aside is copied, made zero and added once: six passes.
  const double expected = 3 * 6 * 4.0 * static_cast<double>(parameter_count(model())) / 1e10;
  EXPECT_NEAR(seconds("32-true", {}, tree, speed) - seconds("32-true", {}, flat, speed), expected,
              1e-6 * expected);
}

TEST(StepSeconds, AreTwiceAsManyOnHalfAMachine) {
  const StepShape shape{.batch_size = 4, .predictions = 8};
  MachineSpeed speed = all_at(1e11);
  speed.memory = 1e10;
  const double whole = seconds("bf16-mixed", {}, shape, speed);
  EXPECT_NEAR(seconds("bf16-mixed", {}, shape, part_of(speed, 0.5)), 2 * whole, 1e-9 * whole);
}

TEST(BackwardSeconds, AreTwoThirdsOfTheMatmulsOrThreeQuarters) {
  const StepShape shape{.batch_size = 64, .predictions = 8, .micro_batches = 2};
  const auto backward = [&](const MemoryOptions& memory) {
    const PrecisionPolicy policy = parse_precision("32-true");
    const NumericsConfig recipe{policy, memory_policy(memory, policy)};
    const MemoryBytes bytes = peak_memory(model(), shape, recipe, 0);
    const double all = step_seconds(model(), shape, recipe, bytes, all_at(1e11));
    return 2 * backward_seconds(model(), shape, recipe, bytes, all_at(1e11)) / all;
  };
  EXPECT_NEAR(backward({}), 2.0 / 3, 1e-6);
  EXPECT_NEAR(backward({.recompute = "blocks"}), 0.75, 1e-6);
}

TEST(StepSeconds, CountTheExpertsThatATokenTakes) {
  const StepShape shape{.batch_size = 64, .predictions = 8};
  ModelConfig moe = model();
  moe.use_moe = true;  // two routed of four, and a shared one
  const double dense = seconds("32-true", {}, shape, all_at(1e11));
  const double more = 6 * 2 * 4.0 * 3 * 256 * 768 * 64 * 8 / 1e11;
  EXPECT_NEAR(seconds("32-true", {}, shape, all_at(1e11), moe) - dense, more, 0.02 * more);
}

TEST(StepSeconds, AskForMeasuredSpeeds) {
  EXPECT_THROW(seconds("32-true", {}, {}, MachineSpeed{}), c10::Error);
}

}  // namespace
}  // namespace halftone::step_time_test
