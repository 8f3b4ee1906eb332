// SPDX-License-Identifier: Apache-2.0
// Bytes by kind against counts made by hand; step_memory_test holds activations to real
// steps.
#include "halftone/plan/memory_plan.h"

#include <gtest/gtest.h>

#include <limits>
#include <string>

#include "halftone/core/error.h"
#include "halftone/system/memory.h"

namespace halftone::memory_plan_test {
namespace {

constexpr double kMiB = 1 << 20;

ModelConfig model() {
  return {.dim = 256, .n_layers = 4, .n_heads = 4, .n_kv_heads = 2, .vocab_size = 8000};
}

MemoryBytes bytes_of(const std::string& precision, const MemoryOptions& memory,
                     const StepShape& shape = {.batch_size = 2, .predictions = 64}) {
  const PrecisionPolicy policy = parse_precision(precision);
  return peak_memory(model(), shape, {policy, memory_policy(memory, policy)}, 7);
}

double bytes_a_parameter(std::uint64_t bytes) {
  return static_cast<double>(bytes) / static_cast<double>(parameter_count(model()));
}

TEST(PeakMemory, CountsFourKindsOfFp32Numbers) {
  const MemoryBytes bytes = bytes_of("32-true", {});
  EXPECT_NEAR(bytes_a_parameter(bytes.weights), 4, 0.01);
  EXPECT_NEAR(bytes_a_parameter(bytes.gradients), 4, 0.01);
  EXPECT_NEAR(bytes_a_parameter(bytes.states), 8, 0.01);
  EXPECT_EQ(bytes.process, 7);
  EXPECT_EQ(bytes.disk, 0);
  EXPECT_EQ(bytes.total(), bytes.weights + bytes.gradients + bytes.states + bytes.activations +
                               bytes.workspace + bytes.process);
}

TEST(PeakMemory, KeepsMastersOfMixedPrecisionInFp32) {
  for (const char* mixed : {"bf16-mixed", "16-mixed", "int8-mixed"}) {
    EXPECT_NEAR(bytes_a_parameter(bytes_of(mixed, {}).weights), 4, 0.01) << mixed;
    EXPECT_NEAR(bytes_a_parameter(bytes_of(mixed, {}).states), 8, 0.01) << mixed;
  }
  EXPECT_NEAR(bytes_a_parameter(bytes_of("bf16-true", {}).weights), 2, 0.01);
}

TEST(PeakMemory, LeanTakesBf16WeightsAndEightBitMoments) {
  const MemoryBytes bytes = bytes_of("bf16-mixed", {.memory = "lean"});
  // Norms and biases, the small parameters, stay fp32. A byte a moment, and a scale per block.
  EXPECT_NEAR(bytes_a_parameter(bytes.weights), 2, 0.02);
  EXPECT_NEAR(bytes_a_parameter(bytes.gradients), 2, 0.02);
  EXPECT_NEAR(bytes_a_parameter(bytes.states), 2, 0.1);
}

TEST(PeakMemory, LeanestHasNoGradientsBesideTheStep) {
  const MemoryBytes bytes = bytes_of("bf16-mixed", {.memory = "leanest"});
  EXPECT_EQ(bytes.gradients, 0);
  EXPECT_LT(bytes.total(), bytes_of("bf16-mixed", {.memory = "lean"}).total());
}

TEST(PeakMemory, PutsOffloadedStatesOnTheDisk) {
  const MemoryBytes bytes = bytes_of("32-true", {.offload = "/tmp"});
  EXPECT_NEAR(bytes_a_parameter(bytes.disk), 8, 0.05);
  EXPECT_LT(bytes.total(), bytes_of("32-true", {}).total());
}

TEST(PeakMemory, GrowsWithTheBatchAndNotWithTheState) {
  const StepShape small{.batch_size = 2, .predictions = 64};
  const StepShape large{.batch_size = 16, .predictions = 64};
  const MemoryBytes a = bytes_of("32-true", {}, small), b = bytes_of("32-true", {}, large);
  EXPECT_NEAR(static_cast<double>(b.activations), 8.0 * static_cast<double>(a.activations),
              0.2 * static_cast<double>(b.activations));
  EXPECT_EQ(a.states, b.states);
  EXPECT_EQ(a.weights, b.weights);
}

TEST(PeakMemory, IsAtLeastWhatMakingTheModelTakes) {
  // A step of one token needs less than the fp32 weights beside their bf16 copies.
  const MemoryBytes bytes = bytes_of("bf16-mixed", {.memory = "leanest", .offload = "/tmp"},
                                     {.batch_size = 1, .predictions = 1});
  EXPECT_GE(bytes_a_parameter(bytes.weights + bytes.states + bytes.activations + bytes.workspace),
            5.9);
}

TEST(PeakMemory, CountsAdaptersAloneAsWhatLearns) {
  const LoraConfig lora{.rank = 8, .targets = {"all-linear"}};
  double adapters = 0;
  for (const NamedShape& matrix : adapter_shapes(lora, model()))
    adapters += static_cast<double>(matrix.sizes[0] * matrix.sizes[1]);
  const StepShape shape{.batch_size = 2, .predictions = 64};
  for (const char* memory : {"standard", "lean"}) {
    const PrecisionPolicy policy = parse_precision("bf16-mixed");
    const MemoryPolicy kept = memory_policy({.memory = memory}, policy);
    const MemoryBytes all = peak_memory(model(), shape, {policy, kept}, 7);
    const MemoryBytes bytes = peak_memory(model(), shape, {policy, kept, {}, lora}, 7);
    if (std::string(memory) == "standard") {
      EXPECT_NEAR(static_cast<double>(bytes.gradients) / adapters, 4, 0.05);
      EXPECT_NEAR(static_cast<double>(bytes.states) / adapters, 8, 0.1);
    }
    EXPECT_LT(static_cast<double>(bytes.gradients + bytes.states),
              0.1 * static_cast<double>(all.gradients + all.states))
        << memory;
    EXPECT_LT(bytes.weights, all.weights + all.weights / 10 + (std::uint64_t{2} << 20U)) << memory;
    EXPECT_GT(bytes.weights, all.weights) << memory;
    EXPECT_LT(bytes.total(), all.total()) << memory;
  }
}

TEST(PeakMemory, RefusesWhatNoMachineHolds) {
  ModelConfig huge = model();
  huge.dim = std::int64_t{1} << 30U;
  huge.hidden_dim = std::int64_t{1} << 30U;
  const PrecisionPolicy policy = parse_precision("32-true");
  EXPECT_THROW(peak_memory(huge, {}, {policy, memory_policy({}, policy)}, 0), UserError);
}

TEST(BudgetBytes, ReadsItsWords) {
  constexpr std::uint64_t kUnlimited = std::numeric_limits<std::uint64_t>::max();
  EXPECT_EQ(budget_bytes("unlimited"), kUnlimited);
  EXPECT_EQ(budget_bytes("8GiB"), std::uint64_t{8} << 30U);
  EXPECT_GT(budget_bytes("available"), resident_bytes());
  EXPECT_LT(budget_bytes("available"), kUnlimited);
}

TEST(ProcessBytes, AreThisProcessAndALittle) {
  const std::uint64_t bytes = process_bytes();
  EXPECT_GT(static_cast<double>(bytes), static_cast<double>(resident_bytes()));
  EXPECT_LT(static_cast<double>(bytes), static_cast<double>(resident_bytes()) + 64 * kMiB);
}

}  // namespace
}  // namespace halftone::memory_plan_test
