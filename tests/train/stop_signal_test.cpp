// SPDX-License-Identifier: Apache-2.0
// A Trainer that is told to stop by a signal.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/nn/modules/linear.h>
#include <torch/optim/sgd.h>

#include <csignal>
#include <functional>

#include "halftone/data/tensor_loader.h"
#include "halftone/run/checkpoint.h"
#include "halftone/system/interrupt.h"
#include "halftone/train/trainer.h"
#include "support/temp_folder.h"

namespace halftone::stop_signal_test {
namespace {

using test::TempFolder;
using testing::ElementsAre;

class Line : public TrainingModule<> {
 public:
  torch::Tensor training_step(const Batch& batch, std::int64_t /*index*/) override {
    return (line_(batch.data) - batch.target).square().mean();
  }
  std::vector<OptimizerSetup> configure_optimizers(const OptimizerContext& /*context*/) override {
    return {std::make_shared<torch::optim::SGD>(parameters(), 0.05)};
  }

 private:
  torch::nn::Linear line_ = register_module("line", torch::nn::Linear(4, 1));
};

struct AtStepThree : Callback {
  explicit AtStepThree(std::function<void()> todo) : act(std::move(todo)) {}
  void on_step_end(Trainer& /*trainer*/, const StepMetrics& metrics) override {
    if (metrics.step == 3) act();
  }
  std::function<void()> act;
};

using Handler = void (*)(int);

Handler handler_of(int signal) {
  struct sigaction action {};
  sigaction(signal, nullptr, &action);
  return action.sa_handler;
}

/// Trains 8 steps unless `at_step_three` ends it; returns the Trainer for what it tells.
std::unique_ptr<Trainer> train(TrainerOptions options, std::function<void()> at_step_three) {
  options.max_steps = 8;
  options.accelerator = "cpu";
  options.callbacks = {std::make_shared<AtStepThree>(std::move(at_step_three))};
  auto trainer = std::make_unique<Trainer>(std::move(options));
  const torch::Tensor x = torch::ones({16, 4});
  TensorLoader loader({x, x.sum(1, /*keepdim=*/true)}, {.batch_size = 4});
  Line module;
  trainer->fit(module, loader);
  return trainer;
}

TEST(StopSignal, SavesAfterTheStepAndReturns) {
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
    ASSERT_EQ(handler_of(signal), SIG_DFL);
    const TempFolder folder;
    const auto trainer =
        train({.default_root_dir = folder / "run"}, [signal] { std::raise(signal); });
    EXPECT_TRUE(trainer->stopped());
    EXPECT_EQ(trainer->stop_signal(), signal);
    EXPECT_THAT(checkpoint_steps(folder / "run"), ElementsAre(3));
    EXPECT_EQ(handler_of(signal), SIG_DFL) << "as it was";
  }
}

TEST(StopSignal, ASecondHangUpIsTheSame) {
  const TempFolder folder;
  const auto trainer = train({.default_root_dir = folder / "run"}, [] {
    std::raise(SIGHUP);
    std::raise(SIGHUP);
  });
  EXPECT_EQ(trainer->stop_signal(), SIGHUP);
}

TEST(StopSignalDeathTest, ASecondCtrlCEndsTheProcess) {
  const TempFolder folder;
  EXPECT_EXIT(train({.default_root_dir = folder / "run"},
                    [] {
                      std::raise(SIGINT);
                      std::raise(SIGINT);
                    }),
              testing::KilledBySignal(SIGINT), "");
}

TEST(StopSignal, IsLeftToTheProgramWhereItIsTheProgramsOrThereIsNothingToSave) {
  const TempFolder folder;
  const auto handler_in_fit = [](TrainerOptions options) {
    Handler seen = nullptr;
    const auto trainer = train(std::move(options), [&] { seen = handler_of(SIGINT); });
    EXPECT_FALSE(trainer->stopped());
    return seen;
  };
  EXPECT_EQ(handler_in_fit({}), SIG_DFL);
  EXPECT_EQ(handler_in_fit({.default_root_dir = folder / "off", .save_on_signal = false}), SIG_DFL);
  EXPECT_NE(handler_in_fit({.default_root_dir = folder / "on"}), SIG_DFL);

  static bool came;
  came = false;
  std::signal(SIGINT, [](int) { came = true; });
  const auto trainer = train({.default_root_dir = folder / "own"}, [] { std::raise(SIGINT); });
  std::signal(SIGINT, SIG_DFL);
  EXPECT_TRUE(came);
  EXPECT_FALSE(trainer->stopped());
  EXPECT_EQ(trainer->stop_signal(), std::nullopt);
}

TEST(StopSignal, ARunUnderNohupIgnoresTheHangUp) {
  const TempFolder folder;
  std::signal(SIGHUP, SIG_IGN);
  const auto trainer = train({.default_root_dir = folder / "run"}, [] { std::raise(SIGHUP); });
  EXPECT_EQ(handler_of(SIGHUP), SIG_IGN);
  std::signal(SIGHUP, SIG_DFL);
  EXPECT_FALSE(trainer->stopped());
}

TEST(StopSignal, AnOuterGuardSeesWhatTheTrainerSaw) {
  const TempFolder folder;
  const InterruptGuard guard;
  const auto trainer = train({.default_root_dir = folder / "run"}, [] { std::raise(SIGTERM); });
  EXPECT_EQ(trainer->stop_signal(), SIGTERM);
  EXPECT_TRUE(interrupted());
  EXPECT_EQ(interrupting_signal(), SIGTERM);
}

}  // namespace
}  // namespace halftone::stop_signal_test
