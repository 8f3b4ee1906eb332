// SPDX-License-Identifier: Apache-2.0
// What a plan counts of batches, and that it ends for huge layers.
#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "halftone/nn/linear.h"
#include "planned_steps.h"
#include "support/gemm_config_scope.h"

namespace halftone::module_batches_test {
namespace {

using test::planned;
using test::Steps;
using torch::Tensor;

// A sum of 10^11 numbers has 2 * 10^5 blocks, which take minutes even without data.
TEST(ModulePlan, RunsOneBlockOfAWeightsGradientForAll) {
  const test::GemmConfigScope scope("bf16=native,fp16=upcast,fp32=blas");
  struct Huge : Steps<Tensor> {
    Huge() { this->register_module("layer", layer); }
    Tensor training_step(const Tensor& batch, std::int64_t /*index*/) override {
      return layer(batch).square().mean();
    }
    Linear layer{1000, 100'000'000};
  };
  const PlannedTraining training = planned_training([] { return std::make_shared<Huge>(); },
                                                    [](std::int64_t n) {
                                                      return torch::randn({n, 1000});
                                                    });
  EXPECT_EQ(planned(training, "bf16-mixed", 1).bytes.weights, 400'000'000'000U);
}

/// Takes the first tensor of its batch; the others are only loaded.
struct FirstOfMany : Steps<std::vector<Tensor>> {
  FirstOfMany() { this->register_module("layer", layer); }
  Tensor training_step(const std::vector<Tensor>& batch, std::int64_t /*index*/) override {
    return layer(batch[0]).square().mean();
  }
  Linear layer{8, 8};
};

TEST(ModulePlan, CountsTheBatchesThatWaitAsTheyAreLoaded) {
  constexpr double kBytes = 32.0 * 50000 * 4;  // of the numbers that are loaded beside
  constexpr double kIntegers = 32.0 * 1000 * 8;
  const auto workspace = [](const char* precision, std::int64_t beside) {
    const auto make_batch = [beside](std::int64_t n) {
      return std::vector<Tensor>{torch::randn({n, 8}), torch::randn({n, beside}),
                                 torch::zeros({n, beside / 50}, torch::kLong)};
    };
    const PlannedTraining training =
        planned_training([] { return std::make_shared<FirstOfMany>(); }, make_batch);
    return static_cast<double>(planned(training, precision).bytes.workspace);
  };
  const auto of_loading = [&](const char* precision) {
    return workspace(precision, 50000) - workspace(precision, 0);
  };
  // Four wait, one is in the step, and one is made, whose samples are there as well.
  EXPECT_EQ(of_loading("32-true"), 7 * (kBytes + kIntegers));
  EXPECT_EQ(of_loading("bf16-mixed"), 7 * (kBytes + kIntegers));
  EXPECT_EQ(of_loading("bf16-true"), 7 * (kBytes + kIntegers) + kBytes / 2) << "a copy in bf16";
}

}  // namespace
}  // namespace halftone::module_batches_test
