// SPDX-License-Identifier: Apache-2.0
// One step that is computed again and again: TrainingStep and next_step().
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/nn/functional/dropout.h>
#include <torch/nn/modules/linear.h>
#include <torch/optim/sgd.h>

#include <memory>
#include <vector>

#include "halftone/core/error.h"
#include "halftone/core/random.h"
#include "halftone/data/tensor_loader.h"
#include "halftone/nn/linear.h"
#include "halftone/train/fit_loop.h"
#include "halftone/train/step_replay.h"
#include "support/message_of.h"

namespace halftone::training_step_test {
namespace {

using testing::HasSubstr;
using torch::Tensor;

struct Noisy : TrainingModule<> {
  Tensor training_step(const Batch& batch, std::int64_t /*index*/) override {
    count_tokens(batch.data.size(0));
    log("seen", 1.0);
    const Tensor hidden = torch::nn::functional::dropout(first(batch.data));
    return (second(hidden) - batch.target).square().mean();
  }
  std::vector<OptimizerSetup> configure_optimizers(const OptimizerContext& /*context*/) override {
    return {std::make_shared<torch::optim::SGD>(parameters(), 0.01)};
  }
  Linear first = register_module("first", Linear(16, 16));
  Linear second = register_module("second", Linear(16, 8));
};

torch::data::Example<> batch_of(std::int64_t rows) {
  return {torch::randn({rows, 16}), torch::randn({rows, 8})};
}

MixedPrecision precision_of(const std::string& name) {
  return {parse_precision(name), {}, torch::kCPU};
}

TEST(TrainingStep, HasTheSameRandomNumbersEachTime) {
  torch::manual_seed(1);
  const auto module = std::make_shared<Noisy>();
  const TrainingStep step = training_step_on(module, batch_of(6));
  const MixedPrecision precision = precision_of("32-true");
  const double first = step.loss(precision).item<double>();
  torch::rand({10});
  EXPECT_EQ(step.loss(precision).item<double>(), first);
  EXPECT_EQ(module->take_tokens(), 0);
  EXPECT_TRUE(module->logged().take().empty());
  // Not those of another dropout.
  EXPECT_NE(training_step_on(module, batch_of(6)).loss(precision).item<double>(), first);
}

TEST(TrainingStep, AnotherDrawRoundsInAnotherWay) {
  torch::manual_seed(1);
  const auto module = std::make_shared<Noisy>();
  const TrainingStep step = training_step_on(module, batch_of(6));
  const MixedPrecision precision = precision_of("int8-mixed");
  const auto gradient = [&](std::uint64_t draw) {
    const Tensor loss = draw == 0 ? step.loss(precision) : step.redrawn_loss(precision, draw);
    return torch::autograd::grad({loss}, {module->first->weight})[0];
  };
  EXPECT_TRUE(gradient(0).equal(gradient(0)));
  EXPECT_TRUE(gradient(1).equal(gradient(1)));
  EXPECT_FALSE(gradient(0).equal(gradient(1)));
}

TEST(TrainingStep, RefusesAModuleThatStepsItself) {
  struct Manual : Noisy {
    bool automatic_optimization() const override { return false; }
  };
  const auto module = std::make_shared<Manual>();
  EXPECT_THAT(test::message_of<UserError>([&] { training_step_on(module, batch_of(2)); }),
              HasSubstr("automatic_optimization() is false"));
}

// What a resumed run would compute next, to the bit.
TEST(NextStep, IsTheOneThatTheLoopTakes) {
  for (const char* name : {"32-true", "bf16-mixed", "int8-mixed"}) {
    torch::manual_seed(2);
    Noisy module;
    TensorLoader loader({torch::randn({40, 16}), torch::randn({40, 8})},
                        {.batch_size = 4, .shuffle = true, .seed = 5});
    ModuleTrainingTask task(module, loader);
    MixedPrecision precision = precision_of(name);
    FitLoop loop(task, precision, {.limits = {.max_steps = 9}, .seed = 7});
    for (int i = 0; i < 4; ++i) loop.step();
    const Checkpoint checkpoint = loop.checkpoint();
    ModuleTrainingTask other(module, loader);
    const StepReplay replay = next_step(other, checkpoint.trainer, 7);
    EXPECT_EQ(replay.batch, 4);
    EXPECT_EQ(replay.micro_step, 4);
    const double foreseen = first_micro_batch(other, replay).loss(precision).item<double>();
    loop.step();
    const StepReplay& last = loop.last_step();
    EXPECT_EQ(last.batch, 4);
    EXPECT_EQ(last.micro_batches.at(0).loss.item<double>(), foreseen) << name;
  }
}

}  // namespace
}  // namespace halftone::training_step_test
