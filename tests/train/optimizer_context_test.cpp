// SPDX-License-Identifier: Apache-2.0
#include "halftone/train/optimizer_context.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/nn/modules/linear.h>
#include <torch/optim/sgd.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "halftone/core/error.h"
#include "halftone/core/log.h"
#include "halftone/data/tensor_loader.h"
#include "halftone/optim/adamw.h"
#include "halftone/train/cosine_adamw.h"
#include "halftone/train/trainer.h"
#include "support/message_of.h"
#include "support/temp_folder.h"

namespace halftone::optimizer_context_test {
namespace {

using test::message_of;
using testing::HasSubstr;
using torch::Tensor;

enum class Kind { kWithContext, kWithoutContext, kForeign };

/// Two layers, each with an optimizer of its own if there are two kinds.
struct Regression : TrainingModule<> {
  explicit Regression(std::vector<Kind> the_kinds) : kinds(std::move(the_kinds)) {}
  Tensor training_step(const Batch& batch, std::int64_t /*index*/) override {
    const Tensor x = last(first(batch.data.to(first->weight.scalar_type())).tanh());
    return (x.to(torch::kFloat) - batch.target).square().mean();
  }
  std::vector<OptimizerSetup> configure_optimizers(const OptimizerContext& context) override {
    if (kinds.size() == 1) return {optimizer_of(kinds[0], parameters(), context)};
    return {optimizer_of(kinds[0], first->parameters(), context),
            optimizer_of(kinds[1], last->parameters(), context)};
  }
  std::shared_ptr<torch::optim::Optimizer> optimizer_of(Kind kind,
                                                        const std::vector<Tensor>& weights,
                                                        const OptimizerContext& context) {
    if (kind == Kind::kForeign) return std::make_shared<torch::optim::SGD>(weights, 0.01);
    const AdamWOptions own{.lr = 0.01};
    made = std::make_shared<AdamW>(weights, kind == Kind::kWithContext ? context.adamw(own) : own);
    return made;
  }
  std::vector<Kind> kinds;
  std::shared_ptr<AdamW> made;
  torch::nn::Linear first = register_module("first", torch::nn::Linear(64, 64));
  torch::nn::Linear last = register_module("last", torch::nn::Linear(64, 64));
};

std::shared_ptr<Regression> fit(const std::vector<Kind>& kinds, const std::string& precision,
                                const MemoryOptions& memory) {
  auto module = std::make_shared<Regression>(kinds);
  TensorLoader loader({torch::ones({8, 64}), torch::ones({8, 64})}, {.batch_size = 4});
  Trainer({.max_steps = 2, .precision = precision, .accelerator = "cpu", .memory = memory})
      .fit(module, loader);
  return module;
}

/// A part of the memory policy, and what the error says of it.
struct Part {
  std::string name;
  std::string precision;
  MemoryOptions memory;
  std::string asked;
  std::string without;
};

class OptimizerContextOf : public testing::TestWithParam<Part> {
 protected:
  /// An offload's folder lives as long as the test.
  OptimizerContextOf() : part_(GetParam()) {
    if (part_.memory.offload.empty()) return;
    part_.memory.offload = folder_.path();
    part_.asked += " '" + folder_.path().string() + "'";
  }
  std::string error(const std::vector<Kind>& kinds) const {
    return message_of<UserError>([&] { fit(kinds, part_.precision, part_.memory); });
  }
  std::string asked_and_without(const char* of) const {
    return "trainer: the run asks for " + part_.asked + ", but " + of +
           " of configure_optimizers() was built without; build a halftone::AdamW with "
           "context.adamw(options), or train with " +
           part_.without;
  }

  test::TempFolder folder_;
  Part part_;
};

TEST_P(OptimizerContextOf, IsNotForgottenInSilence) {
  EXPECT_EQ(error({Kind::kWithoutContext}), asked_and_without("an AdamW"));
}

TEST_P(OptimizerContextOf, IsAskedOfEachOptimizer) {
  EXPECT_EQ(error({Kind::kWithContext, Kind::kWithoutContext}), asked_and_without("an AdamW"));
}

TEST_P(OptimizerContextOf, IsMoreThanAnOptimizerOfLibTorchHas) {
  if (part_.name == "rounding")  // alone, it is only noted
    EXPECT_NO_THROW(fit({Kind::kForeign}, part_.precision, part_.memory));
  else
    EXPECT_EQ(error({Kind::kForeign}), asked_and_without("an optimizer of another kind"));
}

TEST_P(OptimizerContextOf, IsWhatItsAdamWDoes) {
  const auto module = fit({Kind::kWithContext}, part_.precision, part_.memory);
  const AdamWOptions& options = module->made->options();
  const MemoryPolicy policy = memory_policy(part_.memory, parse_precision(part_.precision));
  EXPECT_EQ(options.moments, policy.moments);
  EXPECT_EQ(options.master, policy.master);
  EXPECT_EQ(options.fp32_gradients, policy.fp32_gradients);
  EXPECT_EQ(options.stochastic_rounding, policy.stochastic_rounding);
  EXPECT_EQ(options.release_gradients, policy.release_gradients);
  EXPECT_EQ(options.offload, policy.offload);
  EXPECT_EQ(options.lr, 0.01);
}

INSTANTIATE_TEST_SUITE_P(
    Parts, OptimizerContextOf,
    testing::Values(
        Part{"int8_moments", "32-true", {.moments = "int8"}, "moments int8", "moments fp32"},
        Part{"bf16_moments", "32-true", {.moments = "bf16"}, "moments bf16", "moments fp32"},
        Part{"split16",
             "bf16-mixed",
             {.master_weights = "split16", .rounding = "nearest"},
             "master_weights split16",
             "master_weights none"},
        Part{"split8",
             "bf16-mixed",
             {.master_weights = "split8"},
             "master_weights split8, rounding stochastic",
             "master_weights none, rounding nearest"},
        Part{"gradients", "16-true", {.gradients = "fp32"}, "gradients fp32", "gradients auto"},
        Part{"rounding", "bf16-true", {}, "rounding stochastic", "rounding nearest"},
        Part{"release",
             "32-true",
             {.release_gradients = "on"},
             "release_gradients on",
             "release_gradients off"},
        Part{"offload", "32-true", {.offload = "a folder"}, "offload", "no offload"},
        Part{"leanest",
             "bf16-mixed",
             {.memory = "leanest"},
             "moments int8, rounding stochastic, release_gradients on",
             "moments fp32, rounding nearest, release_gradients off"}),
    [](const auto& instance) { return instance.param.name; });

TEST(OptimizerContext, IsNotNeededWhereNothingIsAskedFor) {
  for (const std::string precision : {"32-true", "bf16-mixed", "16-mixed", "16-true"})
    for (const Kind kind : {Kind::kWithoutContext, Kind::kForeign})
      EXPECT_NO_THROW(fit({kind}, precision, {})) << precision;
  EXPECT_NO_THROW(fit({Kind::kWithoutContext}, "bf16-true", {.rounding = "nearest"}));
}

TEST(OptimizerContext, GoesWithOneOptimizerWhereGradientsAreReleased) {
  EXPECT_THAT(
      message_of<UserError>([] {
        fit({Kind::kWithContext, Kind::kWithContext}, "32-true", {.release_gradients = "on"});
      }),
      HasSubstr("but this module has 2; give all parameters to one halftone::AdamW"));
}

TEST(OptimizerContext, WithoutItBf16WeightsOfLibTorchsOptimizersLoseSmallUpdates) {
  std::vector<std::string> notes;
  set_log_sink([&](LogLevel /*level*/, const std::string& message) { notes.push_back(message); });
  const auto count = [&](const std::vector<Kind>& kinds, const std::string& precision,
                         const MemoryOptions& memory) {
    notes.clear();
    fit(kinds, precision, memory);
    return std::count_if(notes.begin(), notes.end(), [](const std::string& note) {
      return note.find("rounds updated weights to the nearest") != std::string::npos;
    });
  };
  const MemoryOptions bf16_weights{.memory = "lean", .moments = "fp32"};
  EXPECT_EQ(count({Kind::kForeign}, "bf16-true", {}), 1);
  EXPECT_EQ(count({Kind::kWithContext, Kind::kForeign}, "bf16-true", {}), 1);
  EXPECT_EQ(count({Kind::kForeign}, "bf16-mixed", bf16_weights), 1);
  EXPECT_EQ(count({Kind::kWithContext}, "bf16-true", {}), 0);
  EXPECT_EQ(count({Kind::kForeign}, "bf16-true", {.rounding = "nearest"}), 0);
  EXPECT_EQ(count({Kind::kForeign}, "bf16-mixed", {}), 0);
  set_log_sink({});
}

/// Its rate rises over ten steps and falls over the run.
struct Cosine : Regression {
  Cosine() : Regression({}) {}
  std::vector<OptimizerSetup> configure_optimizers(const OptimizerContext& context) override {
    OptimizerSetup setup = cosine_adamw(*this, context, {.lr = 0.01, .weight_decay = 0.5}, 10);
    made = std::dynamic_pointer_cast<AdamW>(setup.optimizer);
    return {setup};
  }
};

TEST(CosineAdamW, DoesWhatTheRunAsksForAndFollowsItsSchedule) {
  struct Rates : Callback {
    void on_step_end(Trainer& /*trainer*/, const StepMetrics& metrics) override {
      seen.push_back(metrics.lr);
    }
    std::vector<double> seen;
  };
  const auto rates = std::make_shared<Rates>();
  const auto module = std::make_shared<Cosine>();
  TensorLoader loader({torch::ones({8, 64}), torch::ones({8, 64})}, {.batch_size = 4});
  Trainer({.max_steps = 40,
           .precision = "bf16-true",
           .accelerator = "cpu",
           .callbacks = {rates},
           .memory = {.moments = "int8"}})
      .fit(module, loader);
  const LrScheduleOptions cosine{.kind = Schedule::kCosine, .lr = 0.01, .warmup = 10};
  ASSERT_EQ(rates->seen.size(), 40U);
  for (std::size_t step = 0; step < 40; ++step)
    EXPECT_DOUBLE_EQ(rates->seen[step], learning_rate(cosine, static_cast<double>(step), 40));
  const AdamWOptions& options = module->made->options();
  const MemoryPolicy policy = memory_policy({.moments = "int8"}, parse_precision("bf16-true"));
  EXPECT_EQ(options.moments, policy.moments);
  EXPECT_EQ(options.master, policy.master);
  EXPECT_EQ(options.weight_decay, 0.5);
}

}  // namespace
}  // namespace halftone::optimizer_context_test
