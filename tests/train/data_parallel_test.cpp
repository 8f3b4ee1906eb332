// SPDX-License-Identifier: Apache-2.0
// Trainings of several processes, each a program of its own, beside those of one.
#include "halftone/train/data_parallel.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/data.h>
#include <torch/nn/functional/loss.h>
#include <torch/optim/adam.h>
#include <torch/optim/sgd.h>
#include <torch/utils.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>

#include "halftone/core/log.h"
#include "halftone/data/tensor_loader.h"
#include "halftone/dist/join_process_group.h"
#include "halftone/dist/joined_processes.h"
#include "halftone/kernels/gemm/cpu_gemm_config.h"
#include "halftone/nn/linear.h"
#include "halftone/optim/adamw.h"
#include "halftone/run/checkpoint.h"
#include "halftone/train/model_checkpoint.h"
#include "halftone/train/trainer.h"
#include "support/processes.h"
#include "support/temp_folder.h"

namespace halftone::data_parallel_test {
namespace {

namespace fs = std::filesystem;
using test::in_processes;
using test::shared_folder;
using testing::HasSubstr;

/// A regression of two layers.
class Regression : public TrainingModule<> {
 public:
  explicit Regression(std::string optimizer) : optimizer_(std::move(optimizer)) {
    torch::manual_seed(7);
    hidden_ = register_module("hidden", Linear(8, 96));
    out_ = register_module("out", Linear(96, 1));
  }

  torch::Tensor training_step(const Batch& batch, std::int64_t index) override {
    const torch::Tensor prediction = out_(hidden_(batch.data).tanh()).to(torch::kFloat);
    const torch::Tensor loss =
        torch::nn::functional::mse_loss(prediction, batch.target.to(torch::kFloat));
    if (is_training()) log("error", (prediction - batch.target).abs().mean().detach());
    return poisoned && is_training() && index == 1 ? loss * INFINITY : loss;
  }
  std::vector<OptimizerSetup> configure_optimizers(const OptimizerContext& context) override {
    if (optimizer_ == "sgd")
      return {std::make_shared<torch::optim::SGD>(parameters(),
                                                  torch::optim::SGDOptions(0.05).momentum(0.9))};
    const auto named = named_parameters();
    std::vector<std::pair<std::string, torch::Tensor>> all;
    for (const auto& item : named) all.emplace_back(item.key(), item.value());
    const auto adamw = std::make_shared<AdamW>(all, context.adamw({.lr = 0.01}));
    if (optimizer_ == "scheduled") return {{adamw, LrScheduleOptions{.kind = Schedule::kMinimind}}};
    return {adamw};
  }

  bool poisoned = false;

 private:
  std::string optimizer_;
  Linear hidden_{nullptr}, out_{nullptr};
};

TensorLoader loader_of(std::int64_t batch_size, std::int64_t samples = 46) {
  torch::manual_seed(1);
  const torch::Tensor x = torch::randn({samples, 8});
  return TensorLoader({x, (x.sum(1, /*keepdim=*/true) / 2).tanh()},
                      {.batch_size = batch_size, .seed = 3});
}

/// A folder that the processes of several calls of a test know.
class Runs {
 public:
  Runs() {
    if (std::getenv(kName) == nullptr) setenv(kName, folder_.path().c_str(), /*overwrite=*/0);
  }
  ~Runs() { unsetenv(kName); }
  Runs(const Runs&) = delete;
  Runs& operator=(const Runs&) = delete;
  fs::path operator/(const std::string& name) const { return fs::path(std::getenv(kName)) / name; }

 private:
  static constexpr const char* kName = "HALFTONE_TEST_RUNS";
  test::TempFolder folder_;
};

struct StepCollector : Callback {
  void on_step_end(Trainer& /*trainer*/, const StepMetrics& metrics) override {
    steps.push_back(metrics);
  }
  void on_validation_end(Trainer& /*trainer*/,
                         const std::map<std::string, double>& values) override {
    if (values.contains("val_loss")) validations.push_back(values.at("val_loss"));
  }
  std::vector<StepMetrics> steps;
  std::vector<double> validations;
};

struct Trained {
  std::vector<StepMetrics> steps;
  std::vector<double> validations;
  std::map<std::string, torch::Tensor> weights;
};

TrainerOptions options_of(const std::string& precision = "32-true") {
  return {.max_epochs = 2, .precision = precision, .accelerator = "cpu", .gradient_clip_val = 0.5};
}

/// Of the global batch size 8.
Trained train(const std::string& optimizer, TrainerOptions options, std::int64_t batch_size,
              const FitOptions& how = {}, bool poisoned = false, std::int64_t samples = 46) {
  Regression module(optimizer);
  module.poisoned = poisoned;
  TensorLoader loader = loader_of(batch_size, samples), validation = loader_of(5, 23);
  const auto collector = std::make_shared<StepCollector>();
  options.callbacks.push_back(collector);
  Trainer trainer(options);
  trainer.fit(module, loader, validation, how);
  Trained trained{.steps = collector->steps, .validations = collector->validations};
  for (const auto& item : module.named_parameters())
    trained.weights[item.key()] = item.value().detach().clone();
  return trained;
}

double distance(const Trained& a, const Trained& b) {
  double most = 0;
  for (const auto& [name, weight] : a.weights)
    most = std::max(most, (weight - b.weights.at(name)).abs().max().item<double>());
  return most;
}

// 46 samples: the last step of an epoch has 6, of which the last process may have none.
void expect_same_as_one(const std::string& optimizer) {
  in_processes(4, [&] {
    const Trained together = train(optimizer, options_of(), 2);
    TrainerOptions alone = options_of();
    alone.process_group = join_process_group(ProcessPlace{});
    const Trained one = train(optimizer, alone, 8);
    ASSERT_EQ(together.steps.size(), one.steps.size());
    for (std::size_t i = 0; i < one.steps.size(); ++i) {
      EXPECT_NEAR(together.steps[i].loss, one.steps[i].loss, 1e-6) << i;
      EXPECT_NEAR(*together.steps[i].grad_norm, *one.steps[i].grad_norm, 1e-6) << i;
      EXPECT_NEAR(together.steps[i].logged.at("error"), one.steps[i].logged.at("error"), 1e-6);
    }
    ASSERT_EQ(together.validations.size(), one.validations.size());
    for (std::size_t i = 0; i < one.validations.size(); ++i)
      EXPECT_NEAR(together.validations[i], one.validations[i], 1e-6);
    EXPECT_LE(distance(together, one), 2e-6);
  });
}
TEST(DataParallel, TrainsAsOneProcessWithAllBatches) { expect_same_as_one("scheduled"); }
// guide: devices, strategy="ddp", "fsdp"
TEST(DataParallel, TrainsWithOptimizersOfLibTorch) { expect_same_as_one("sgd"); }

TEST(DataParallel, GivesEachProcessTheSameBitsInEachPrecision) {
  in_processes(2, [] {
    for (const char* precision : {"32-true", "bf16-mixed", "16-mixed", "int8-mixed", "bf16-true"}) {
      TrainerOptions options = options_of(precision);
      options.accumulate_grad_batches = 2;
      const Trained trained = train("adamw", options, 2);
      std::string bytes;
      for (const auto& [name, weight] : trained.weights) {
        const torch::Tensor raw = weight.contiguous().view(-1).view(torch::kUInt8);
        bytes.append(static_cast<const char*>(raw.const_data_ptr()),
                     static_cast<std::size_t>(raw.numel()));
      }
      const auto all = joined_processes()->all_gather(bytes);
      EXPECT_EQ(all[0], all[1]) << precision;
      EXPECT_LT(trained.steps.back().loss, 0.8 * trained.steps.front().loss) << precision;
    }
  });
}

// Of a step's four micro-batches one process computes four, two compute two each, four one each.
// Gradients of 16 bits are left out: what a process adds up itself it rounds after each addition.
TEST(DataParallel, HasOneResultForOneTwoAndFourProcesses) {
  const Runs runs;
  // Processes of one thread and of two may have measured different paths to be the faster ones.
  ::setenv("HALFTONE_MATMUL", to_string(cpu_gemm_config()).c_str(), /*overwrite=*/0);
  const auto names = {"32-true", "bf16-mixed", "16-mixed", "int8-mixed"};
  const auto part = [&](std::int64_t processes) {
    for (const char* precision : names) {
      TrainerOptions options = options_of(precision);
      options.accumulate_grad_batches = 4 / processes;
      options.gradient_sum = "tree";
      options.limit_train_batches = 12;
      options.default_root_dir = runs / (precision + std::to_string(processes));
      train("adamw", options, 2);
    }
  };
  in_processes(2, [&] { part(2); });
  in_processes(4, [&] { part(4); });
  part(1);
  for (const char* precision : names) {
    const auto weights = [&](int processes) {
      return load_latest_checkpoint(runs / (precision + std::to_string(processes))).model;
    };
    const StateDict one = weights(1), two = weights(2), four = weights(4);
    for (const auto& [name, meta] : one.tensors) {
      EXPECT_TRUE(one.tensor(name).equal(two.tensor(name))) << precision << name;
      EXPECT_TRUE(one.tensor(name).equal(four.tensor(name))) << precision << name;
    }
  }
}

TEST(DataParallel, AProcessWithoutABatchTakesPartFromTheFirstStepOn) {
  in_processes(4, [] {
    for (const char* precision : {"16-mixed", "bf16-mixed"}) {
      TrainerOptions alone = options_of(precision);
      alone.process_group = join_process_group(ProcessPlace{});
      const Trained one = train("adamw", alone, 8, {}, false, /*samples=*/6);
      const Trained four = train("adamw", options_of(precision), 2, {}, false, /*samples=*/6);
      ASSERT_EQ(four.steps.size(), 2U);
      EXPECT_EQ(four.steps[0].tokens, one.steps[0].tokens);
      EXPECT_NEAR(four.steps[1].loss, one.steps[1].loss, 1e-3) << precision;
      EXPECT_FALSE(four.steps[0].skipped || four.steps[1].skipped);
    }
  });
}

TEST(DataParallel, SkipsEverywhereWhatOverflowsOnOne) {
  in_processes(2, [] {
    const bool second = joined_processes()->rank() == 1;
    TrainerOptions options = options_of("16-mixed");
    options.max_epochs = 1;
    const Trained trained = train("adamw", options, 4, {}, /*poisoned=*/second);
    EXPECT_FALSE(trained.steps[0].skipped);
    ASSERT_TRUE(trained.steps[1].skipped);
    EXPECT_FALSE(trained.steps[2].skipped);
    EXPECT_EQ(*trained.steps[2].scale, *trained.steps[1].scale / 2);
    EXPECT_FALSE(trained.steps[1].overflow.empty());
  });
}

TEST(DataParallel, ResumesBitByBitWithAsManyProcesses) {
  in_processes(2, [] {
    TrainerOptions options = options_of("16-mixed");
    options.default_root_dir = shared_folder() / "whole";
    const Trained whole = train("adamw", options, 4);
    options.default_root_dir = shared_folder() / "parts";
    options.max_steps = 7;
    train("adamw", options, 4);
    options.max_steps.reset();
    const Trained rest = train("adamw", options, 4, {.resume = true});
    EXPECT_EQ(rest.steps.size(), whole.steps.size() - 7);
    EXPECT_EQ(distance(whole, rest), 0.0);
    EXPECT_EQ(rest.steps.back().loss, whole.steps.back().loss);
    EXPECT_EQ(rest.validations.back(), whole.validations.back());
  });
}

std::vector<double> losses_of(const fs::path& run) {
  std::vector<double> losses;
  std::ifstream lines(run / "metrics.jsonl");
  for (std::string line; std::getline(lines, line);)
    if (const auto values = nlohmann::json::parse(line); values.contains("loss"))
      losses.push_back(values["loss"].get<double>());
  return losses;
}

/// In two processes: the run of `options` with its states shared, beside one without.
void expect_same_sharded(const char* precision, const MemoryOptions& memory, const char* shard) {
  TrainerOptions options = options_of(precision);
  // Gradients that are shared are summed after each batch.
  options.accumulate_grad_batches = std::string(shard) == "gradients" ? 1 : 2;
  options.memory = memory;
  constexpr std::int64_t kSamples = 22;  // an epoch's last turn has one batch for two processes
  const Trained whole = train("adamw", options, 2, {}, false, kSamples);
  options.shard = shard;
  options.default_root_dir = shared_folder() / precision;
  options.overwrite = true;
  options.max_steps = 2;  // in the first epoch
  train("adamw", options, 2, {}, false, kSamples);
  options.max_steps.reset();
  const Trained rest = train("adamw", options, 2, {.resume = true}, false, kSamples);
  EXPECT_EQ(rest.steps.size() + 2, whole.steps.size()) << precision;
  EXPECT_GT(rest.steps.back().epoch, rest.steps.front().epoch) << precision;
  EXPECT_EQ(distance(whole, rest), 0.0) << precision;
  EXPECT_EQ(rest.steps.back().loss, whole.steps.back().loss) << precision;
  EXPECT_EQ(*rest.steps.back().grad_norm, *whole.steps.back().grad_norm) << precision;
}

TEST(DataParallel, SharesStatesWithTheSameBitsAlsoAfterAResume) {
  in_processes(2, [] {
    for (const char* shard : {"optimizer", "gradients"}) {
      for (const char* precision : {"32-true", "bf16-mixed", "16-mixed", "int8-mixed", "bf16-true"})
        expect_same_sharded(precision, {}, shard);
      expect_same_sharded("bf16-mixed", {.memory = "lean"}, shard);
      expect_same_sharded("32-true", {.moments = "int8"}, shard);
    }
  });
}

// Sums over batches are sums over processes first.
TEST(DataParallel, SharesGradientsOfSeveralBatches) {
  in_processes(2, [] {
    TrainerOptions options = options_of();
    options.accumulate_grad_batches = 2;
    const Trained whole = train("adamw", options, 2);
    options.shard = "gradients";
    const Trained shared = train("adamw", options, 2);
    ASSERT_EQ(shared.steps.size(), whole.steps.size());
    for (std::size_t i = 0; i < whole.steps.size(); ++i) {
      EXPECT_NEAR(shared.steps[i].loss, whole.steps[i].loss, 1e-6);
      EXPECT_NEAR(*shared.steps[i].grad_norm, *whole.steps[i].grad_norm, 1e-6);
    }
    EXPECT_LE(distance(whole, shared), 2e-6);
  });
}

// Of two sharded processes one goes on, and four.
TEST(DataParallel, TakesSharedStatesToAnotherNumberOfProcesses) {
  const Runs runs;
  const auto part = [&](const char* run, const char* shard, bool resume) {
    TrainerOptions options = options_of();
    options.accumulate_grad_batches = 2;
    options.shard = shard;
    options.default_root_dir = runs / run;
    if (!resume) options.max_steps = 4;
    return train("adamw", options, 2, {.resume = resume});
  };
  in_processes(2, [&] {
    for (const char* run : {"whole", "one", "four"}) part(run, "optimizer", false);
    part("whole", "none", true);
  });
  in_processes(4, [&] { part("four", "optimizer", true); });
  part("one", "none", true);
  const std::vector<double> whole = losses_of(runs / "whole");
  for (const char* run : {"one", "four"}) {
    const std::vector<double> other = losses_of(runs / run);
    ASSERT_EQ(other.size(), whole.size()) << run;
    for (std::size_t i = 0; i < whole.size(); ++i)
      EXPECT_NEAR(other[i], whole[i], 1e-6) << run << i;
  }
}

TEST(DataParallel, NeverTakesACheckpointThatLacksAShard) {
  in_processes(2, [] {
    TrainerOptions options = options_of();
    options.shard = "optimizer";
    options.max_steps = 4;
    const auto saving = std::make_shared<ModelCheckpoint>(
        ModelCheckpointOptions{.every_n_steps = 2, .keep_last = 5});
    options.callbacks = {saving};
    options.default_root_dir = shared_folder() / "run";
    train("adamw", options, 4);
    const fs::path shard =
        checkpoint_folder(options.default_root_dir, 4) / "optimizer-00001.safetensors";
    on_process_zero(joined_processes().get(), [&] { EXPECT_TRUE(fs::remove(shard)); });
    options.max_steps = 6;
    const Trained rest = train("adamw", options, 4, {.resume = true});
    EXPECT_EQ(rest.steps.front().step, 3) << "from the checkpoint before";
  });
}

// Two processes stop; one and four go on, with as many batches a step and the same learning rates.
TEST(DataParallel, GoesOnWithAnotherNumberOfProcesses) {
  const Runs runs;
  const auto part = [&](const char* run, std::int64_t accumulate, bool resume) {
    TrainerOptions options = options_of();
    options.accumulate_grad_batches = accumulate;
    options.default_root_dir = runs / run;
    if (!resume) options.max_steps = 4;
    train("scheduled", options, 2, {.resume = resume});
  };
  in_processes(2, [&] {
    for (const char* run : {"one", "two", "four", "three"}) part(run, 2, false);
    part("two", 2, true);
  });
  in_processes(4, [&] { part("four", 2, true); });
  in_processes(3, [&] {
    try {
      part("three", 2, true);
      ADD_FAILURE() << "three processes shared four micro-batches";
    } catch (const UserError& error) {
      EXPECT_THAT(error.what(), HasSubstr("has 4 micro-batches, which 3 processes can't share"));
    }
  });
  part("one", 2, true);
  const std::vector<double> two = losses_of(runs / "two");
  EXPECT_EQ(two.size(), 12U);
  for (const char* run : {"one", "four"}) {
    const std::vector<double> other = losses_of(runs / run);
    ASSERT_EQ(other.size(), two.size()) << run;
    for (std::size_t i = 0; i < two.size(); ++i) EXPECT_NEAR(other[i], two[i], 1e-6) << run << i;
  }
}

TEST(DataParallel, RefusesProcessesThatWereToldDifferentThings) {
  test::Processes processes({.count = 2}, [] {
    TrainerOptions options = options_of();
    options.accumulate_grad_batches = joined_processes()->rank() + 1;
    train("adamw", options, 4);
  });
  for (const test::Ended& ended : processes.wait()) {
    EXPECT_EQ(ended.exit_code, 2);
    EXPECT_THAT(ended.error(), HasSubstr("accumulate"));
  }
}

TEST(DataParallel, StopsAllWhereOneIsAskedTo) {
  test::Processes processes({.count = 2}, [] {
    struct Interrupt : Callback {
      void on_step_end(Trainer& trainer, const StepMetrics& metrics) override {
        if (metrics.step == 3 && !trainer.is_global_zero()) std::raise(SIGTERM);
      }
    };
    TrainerOptions options = options_of();
    options.callbacks = {std::make_shared<Interrupt>()};
    options.default_root_dir = shared_folder() / "run";
    const Trained trained = train("adamw", options, 4);
    EXPECT_EQ(trained.steps.size(), 3U);
  });
  for (const test::Ended& ended : processes.wait()) EXPECT_EQ(ended.exit_code, 0) << ended.output;
  EXPECT_EQ(load_latest_checkpoint(processes.folder() / "run").step, 3);
}

// The others have sent their gradients: no step may come of what is missing.
TEST(DataParallel, TellsOfAnErrorThatOneProcessHas) {
  test::Processes processes({.count = 3}, [] {
    struct Fail : Callback {
      void on_before_backward(Trainer& trainer, const torch::Tensor& /*loss*/) override {
        if (trainer.loop().counters().step == 3 && trainer.processes()->rank() == 1)
          throw SystemError("the disk of process 1 is gone");
      }
    };
    TrainerOptions options = options_of();
    options.callbacks = {std::make_shared<Fail>(), std::make_shared<ModelCheckpoint>(
                                                       ModelCheckpointOptions{.every_n_steps = 1})};
    options.default_root_dir = shared_folder() / "run";
    train("adamw", options, 2);
  });
  for (const test::Ended& ended : processes.wait()) {
    EXPECT_EQ(ended.exit_code, 1);
    EXPECT_THAT(ended.error(), HasSubstr("the disk of process 1 is gone"));
  }
  EXPECT_EQ(load_latest_checkpoint(processes.folder() / "run").step, 3);
}

TEST(DataParallel, NamesTheProcessThatWasKilled) {
  test::Processes processes({.count = 3}, [] {
    struct Kill : Callback {
      void on_step_end(Trainer& trainer, const StepMetrics& metrics) override {
        if (metrics.step == 3 && trainer.processes()->rank() == 1) std::raise(SIGKILL);
      }
    };
    TrainerOptions options = options_of();
    options.callbacks = {std::make_shared<Kill>()};
    options.default_root_dir = shared_folder() / "run";
    train("adamw", options, 2);
  });
  const std::vector<test::Ended> ended = processes.wait();
  for (const std::size_t rank : {0U, 2U}) {
    EXPECT_EQ(ended[rank].exit_code, 1);
    EXPECT_THAT(ended[rank].error(), HasSubstr("process 1 of 3 has ended"));
  }
}

}  // namespace
}  // namespace halftone::data_parallel_test
