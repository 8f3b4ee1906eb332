// SPDX-License-Identifier: Apache-2.0
// Averages of the weights: what they are, where they stand in, and that a run with them resumes to
// the same bits. lightning_test compares the numbers with Lightning's.
#include "halftone/train/weight_averaging.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/linear.h>
#include <torch/optim/sgd.h>
#include <torch/utils.h>

#include "halftone/core/error.h"
#include "halftone/data/tensor_loader.h"
#include "halftone/nn/linear.h"
#include "halftone/optim/adamw.h"
#include "halftone/train/network_state.h"
#include "halftone/train/saved_model.h"
#include "halftone/train/trainer.h"
#include "support/temp_folder.h"

namespace halftone::weight_averaging_test {
namespace {

using test::message_of;
using test::TempFolder;
using testing::HasSubstr;
using torch::Tensor;

struct Net : TrainingModule<> {
  explicit Net(bool with_norm = false) : uses_norm(with_norm) {
    if (uses_norm) norm = register_module("norm", torch::nn::BatchNorm1d(8));
  }
  Tensor forward(const Tensor& x) {
    const Tensor middle = first(x);
    return last((uses_norm ? norm(middle) : middle).tanh());
  }
  Tensor training_step(const Batch& batch, std::int64_t /*index*/) override {
    const Tensor loss = (forward(batch.data) - batch.target).square().mean();
    return ++steps == bad_step ? loss * INFINITY : loss;
  }
  void validation_step(const Batch& /*batch*/, std::int64_t /*index*/) override {
    validated.push_back(last->weight.detach().clone());
    log("val_loss", 1.0);
  }
  std::vector<OptimizerSetup> configure_optimizers(const OptimizerContext& context) override {
    return {std::make_shared<AdamW>(parameters(), context.adamw({.lr = 0.02}))};
  }
  bool uses_norm;
  Linear first = register_module("first", Linear(4, 8));
  torch::nn::BatchNorm1d norm{nullptr};
  Linear last = register_module("last", Linear(8, 1));
  std::vector<Tensor> validated;
  std::int64_t steps = 0, bad_step = -1;
};

std::shared_ptr<Net> net(bool with_norm = false) {
  torch::manual_seed(7);
  return std::make_shared<Net>(with_norm);
}

TensorLoader loader(std::int64_t count = 20) {
  torch::manual_seed(1);
  const Tensor x = torch::randn({count, 4});
  return TensorLoader({x, x.sum(1, true).tanh()}, {.batch_size = 4, .seed = 3});
}

/// The weights of the last layer after each step.
struct Weights : Callback {
  void on_step_end(Trainer& trainer, const StepMetrics& metrics) override {
    const auto named = trainer.module().named_parameters();
    weights.push_back(named["last.weight"].detach().to(torch::kFloat).clone());
    if (metrics.step == stop_at) trainer.stop();
  }
  std::vector<Tensor> weights;
  std::int64_t stop_at = -1;
};

class AverageInEveryRecipe : public testing::TestWithParam<std::string> {};

TEST_P(AverageInEveryRecipe, TheAverageStandsInAndResumesToTheSameBits) {
  const TempFolder folder;
  const auto fit = [&](const char* name, std::int64_t stop_at, bool resume) {
    const auto module = net();
    const auto ema = std::make_shared<Ema>(EmaOptions{.decay = 0.75});
    const auto weights = std::make_shared<Weights>();
    weights->stop_at = stop_at;
    TensorLoader train = loader(), validation = loader(4);
    Trainer({.max_epochs = 3,
             .precision = GetParam(),
             .accelerator = "cpu",
             .callbacks = {ema, weights},
             .default_root_dir = folder / name,
             .num_sanity_val_steps = 0,
             .scaler = {.init_scale = 1024.0}})
        .fit(module, train, validation, {.resume = resume});
    return std::tuple(module, ema, weights);
  };
  const auto [module, ema, weights] = fit("straight", -1, false);
  Tensor average = weights->weights.front();
  std::vector<Tensor> expected = {average};
  for (std::size_t i = 1; i < weights->weights.size(); ++i) {
    average = 0.75 * average + 0.25 * weights->weights[i];
    expected.push_back(average);
  }
  EXPECT_TRUE(ema->averages().at("last.weight").allclose(average, 1e-5, 1e-6));
  ASSERT_EQ(module->validated.size(), 3U);
  for (std::size_t epoch = 0; epoch < 3; ++epoch)
    EXPECT_TRUE(
        module->validated[epoch].to(torch::kFloat).allclose(expected[5 * epoch + 4], 1e-2, 1e-3));
  const Tensor final_weight = module->last->weight;
  EXPECT_TRUE(final_weight.equal(ema->averages().at("last.weight").to(final_weight.scalar_type())));
  EXPECT_TRUE(
      load_saved_model(folder / "straight").weights.tensor("last.weight").equal(final_weight));

  fit("parts", 7, false);
  const auto [resumed, resumed_ema, resumed_weights] = fit("parts", -1, true);
  EXPECT_TRUE(resumed->last->weight.equal(final_weight));
  EXPECT_TRUE(resumed_weights->weights.back().equal(weights->weights.back()))
      << "training went on from its own weights";
  EXPECT_TRUE(resumed_ema->averages().at("last.weight").equal(ema->averages().at("last.weight")));
}

INSTANTIATE_TEST_SUITE_P(All, AverageInEveryRecipe,
                         testing::Values("32-true", "16-mixed", "bf16-mixed", "16-true",
                                         "bf16-true", "int8-mixed"),
                         [](const auto& instance) {
                           std::string name = instance.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

TEST(WeightAveraging, ASkippedStepDoesNotMoveIt) {
  const auto module = net();
  module->bad_step = 3;
  const auto ema = std::make_shared<Ema>(EmaOptions{.decay = 0.5});
  TensorLoader train = loader();
  Trainer({.max_steps = 5, .accelerator = "cpu", .callbacks = {ema}}).fit(module, train);
  EXPECT_EQ(ema->updates(), 4);
}

TEST(WeightAveraging, SwaIsTheMeanOfTheLastEpochs) {
  const auto module = net();
  const auto swa = std::make_shared<Swa>(SwaOptions{.swa_lr = 0.05, .swa_epoch_start = 3});
  const auto weights = std::make_shared<Weights>();
  TensorLoader train = loader();
  Trainer({.max_epochs = 5, .accelerator = "cpu", .callbacks = {swa, weights}}).fit(module, train);
  const Tensor mean = (weights->weights[14] + weights->weights[19] + weights->weights[24]) / 3.0;
  EXPECT_TRUE(module->last->weight.allclose(mean, 1e-5, 1e-6));
  EXPECT_EQ(swa->updates(), 3);
}

TEST(WeightAveraging, AnEmaThatWarmsUpForgetsTheFirstWeightsAndResumes) {
  const TempFolder folder;
  const auto fit = [&](const char* name, std::int64_t stop_at, bool resume) {
    const auto module = net();
    const auto ema = std::make_shared<Ema>(EmaOptions{.decay = 0.4, .warmup = true});
    const auto weights = std::make_shared<Weights>();
    weights->stop_at = stop_at;
    TensorLoader train = loader();
    Trainer({.max_steps = 12,
             .accelerator = "cpu",
             .callbacks = {ema, weights},
             .default_root_dir = folder / name})
        .fit(module, train, {.resume = resume});
    return std::pair(ema->averages().at("last.weight"), weights->weights);
  };
  const auto [average, weights] = fit("straight", -1, false);
  ASSERT_EQ(weights.size(), 12);
  Tensor expected = weights.front().to(torch::kDouble);
  for (int n = 1; n < 12; ++n) {
    const double decay = std::min(0.4, (1.0 + n) / (10.0 + n));  // 2/11, 3/12, 4/13, 5/14, 0.4, ...
    expected = decay * expected + (1 - decay) * weights[static_cast<std::size_t>(n)];
  }
  EXPECT_LT((average - expected).abs().max().item<double>(), 1e-6);
  fit("parts", 3, false);
  EXPECT_TRUE(fit("parts", -1, true).first.equal(average));
}

TEST(WeightAveraging, SwaComputesTheStatisticsOfBatchNormAnew) {
  const auto module = net(/*with_norm=*/true);
  TensorLoader train = loader();
  Trainer({.max_epochs = 4,
           .accelerator = "cpu",
           .callbacks = {std::make_shared<Swa>(SwaOptions{.swa_epoch_start = 2})}})
      .fit(module, train);
  // By hand: the mean over the batches of an epoch of the averaged model's statistics.
  Tensor mean = torch::zeros({8}), variance = torch::zeros({8});
  const torch::NoGradGuard no_grad;
  for (std::int64_t i = 0; i < 5; ++i) {
    const Tensor middle = module->first(train.batch_at(4 * 5 + i).data);
    mean += middle.mean(0) / 5;
    variance += middle.var(0) / 5;
  }
  EXPECT_TRUE(module->norm->running_mean.allclose(mean, 1e-4, 1e-5));
  EXPECT_TRUE(module->norm->running_var.allclose(variance, 1e-4, 1e-5));
  EXPECT_EQ(module->norm->options.momentum(), 0.1);
  EXPECT_EQ(module->steps, 4 * 5 + 5) << "and one pass more";
}

TEST(WeightAveraging, SwaResumesToTheSameBits) {
  const TempFolder folder;
  const auto fit = [&](const char* name, std::int64_t stop_at, bool resume) {
    const auto module = net(/*with_norm=*/true);
    const auto weights = std::make_shared<Weights>();
    weights->stop_at = stop_at;
    TensorLoader train = loader();
    Trainer({.max_epochs = 4,
             .accelerator = "cpu",
             .callbacks = {std::make_shared<Swa>(
                               SwaOptions{.swa_epoch_start = 0.5, .annealing_epochs = 2}),
                           weights},
             .default_root_dir = folder / name})
        .fit(module, train, {.resume = resume});
    return network_state(*module);
  };
  const StateDict straight = fit("straight", -1, false);
  fit("parts", 13, false);
  const StateDict resumed = fit("parts", -1, true);
  for (const auto& [name, tensor] : straight.tensors)
    EXPECT_TRUE(tensor.equal(resumed.tensor(name))) << name;
}

TEST(WeightAveraging, TheWeightsOfTrainingComeBackAfterAFaultInValidation) {
  struct Faulty : Net {
    void validation_step(const Batch& /*batch*/, std::int64_t /*index*/) override {
      throw UserError("a fault");
    }
  };
  torch::manual_seed(7);
  const auto module = std::make_shared<Faulty>();
  const auto weights = std::make_shared<Weights>();
  TensorLoader train = loader(), validation = loader(4);
  EXPECT_THROW(Trainer({.max_epochs = 2,
                        .accelerator = "cpu",
                        .callbacks = {std::make_shared<Ema>(), weights},
                        .num_sanity_val_steps = 0})
                   .fit(module, train, validation),
               UserError);
  // The fifth step's callbacks were not called: compare with the steps alone.
  const auto same = net();
  TensorLoader again = loader();
  Trainer({.max_steps = 5, .accelerator = "cpu"}).fit(same, again);
  EXPECT_TRUE(module->last->weight.equal(same->last->weight));
}

/// Two names of one weight.
struct Tied : Net {
  Tied() { again = register_module("again", first); }
  Linear again{nullptr};
};

TEST(WeightAveraging, TiedWeightsComeBackAfterValidation) {
  const auto fit = [](bool averaged) {
    torch::manual_seed(7);
    const auto module = std::make_shared<Tied>();
    const auto weights = std::make_shared<Weights>();
    TrainerOptions options{.max_epochs = 3, .accelerator = "cpu", .callbacks = {weights}};
    if (averaged) options.callbacks.push_back(std::make_shared<Ema>(EmaOptions{.decay = 0.5}));
    TensorLoader train = loader(), validation = loader(4);
    Trainer(options).fit(module, train, validation);
    return weights->weights.back();
  };
  EXPECT_TRUE(fit(true).equal(fit(false)));
}

TEST(WeightAveraging, FrozenBatchNormKeepsItsStatistics) {
  const auto module = net(/*with_norm=*/true);
  {
    const torch::NoGradGuard no_grad;
    module->norm->running_mean.fill_(0.25);
    module->norm->running_var.fill_(4.0);
  }
  module->norm->eval();
  TensorLoader train = loader();
  Trainer({.max_epochs = 3,
           .accelerator = "cpu",
           .callbacks = {std::make_shared<Swa>(SwaOptions{.swa_epoch_start = 1})}})
      .fit(module, train);
  EXPECT_TRUE(module->norm->running_mean.equal(torch::full({8}, 0.25)));
  EXPECT_TRUE(module->norm->running_var.equal(torch::full({8}, 4.0)));
}

TEST(WeightAveraging, TheLastCheckpointHasTheStatisticsOfTheEnd) {
  const TempFolder folder;
  const auto module = net(/*with_norm=*/true);
  TensorLoader train = loader();
  Trainer({.max_epochs = 3,
           .accelerator = "cpu",
           .callbacks = {std::make_shared<Swa>(SwaOptions{.swa_epoch_start = 1})},
           .default_root_dir = folder / "run"})
      .fit(module, train);
  const SavedModel saved = load_saved_model(folder / "run");
  for (const auto& [name, tensor] : network_state(*module).tensors)
    EXPECT_TRUE(tensor.equal(saved.weights.tensor(name))) << name;
}

// A run that ends within an epoch takes a whole one for its statistics, and stays where it was.
TEST(WeightAveraging, APassIsAWholeEpoch) {
  struct Passing : Callback {
    void on_train_end(Trainer& trainer) override { trainer.pass_over_training_data(); }
    void on_step_end(Trainer& trainer, const StepMetrics& metrics) override {
      if (metrics.step == 1) trainer.pass_over_training_data();
    }
    void on_after_backward(Trainer& trainer) override {
      EXPECT_THROW(trainer.pass_over_training_data(), c10::Error);
    }
  };
  const auto module = net(), plain = net();
  TensorLoader train = loader();
  Trainer({.max_steps = 8, .accelerator = "cpu", .callbacks = {std::make_shared<Passing>()}})
      .fit(module, train);
  Trainer({.max_steps = 8, .accelerator = "cpu"}).fit(plain, train);
  EXPECT_EQ(module->steps, 8 + 5 + 5);
  EXPECT_TRUE(module->last->weight.equal(plain->last->weight));
}

TEST(WeightAveraging, EachFitBeginsANewAverage) {
  const auto ema = std::make_shared<Ema>(EmaOptions{.decay = 0.5});
  TensorLoader train = loader();
  const TrainerOptions options{.max_steps = 4, .accelerator = "cpu", .callbacks = {ema}};
  const auto first = net(), second = net();
  Trainer(options).fit(first, train);
  Trainer(options).fit(second, train);
  EXPECT_TRUE(first->last->weight.equal(second->last->weight));
  EXPECT_EQ(ema->updates(), 4);
}

TEST(WeightAveraging, ARunGoesOnFromItsOwnWeightsWithoutTheCallback) {
  const TempFolder folder;
  const auto fit = [&](const char* name, std::int64_t steps, bool averaged, bool resume) {
    const auto module = net();
    TrainerOptions options{
        .max_steps = steps, .accelerator = "cpu", .default_root_dir = folder / name};
    if (averaged) options.callbacks = {std::make_shared<Ema>(EmaOptions{.decay = 0.5})};
    TensorLoader train = loader();
    Trainer(options).fit(module, train, {.resume = resume});
    return module->last->weight.detach().clone();
  };
  fit("averaged", 4, true, false);
  EXPECT_TRUE(fit("averaged", 8, false, true).equal(fit("plain", 8, false, false)));
}

TEST(WeightAveraging, ABatchWithoutAnUpdateDoesNotMoveIt) {
  struct Rarely : Net {
    bool automatic_optimization() const override { return false; }
    Tensor training_step(const Batch& batch, std::int64_t index) override {
      const Tensor loss = (forward(batch.data) - batch.target).square().mean();
      manual_backward(loss);
      if (index % 2 == 1) {
        optimizer().step();
        optimizer().zero_grad();
      }
      return loss;
    }
  };
  torch::manual_seed(7);
  const auto ema = std::make_shared<Ema>(EmaOptions{.decay = 0.5});
  TensorLoader train = loader();
  Trainer({.max_steps = 4, .accelerator = "cpu", .callbacks = {ema}})
      .fit(std::make_shared<Rarely>(), train);
  EXPECT_EQ(ema->updates(), 2);
}

TEST(WeightAveraging, RefusesWhatMakesNoSense) {
  EXPECT_THAT(message_of<UserError>([] {
                Trainer({.callbacks = {std::make_shared<Ema>(), std::make_shared<Swa>()}});
              }),
              HasSubstr("one average of the weights"));
  struct Manual : Net {
    Manual() : Net(/*with_norm=*/true) {}
    bool automatic_optimization() const override { return false; }
  };
  TensorLoader data = loader();
  EXPECT_THAT(
      message_of<UserError>([&] {
        Trainer({.max_epochs = 1, .accelerator = "cpu", .callbacks = {std::make_shared<Swa>()}})
            .fit(std::make_shared<Manual>(), data);
      }),
      HasSubstr("use Ema instead"));
  EXPECT_THAT(message_of<UserError>([] { Ema(EmaOptions{.decay = 1.0}); }), HasSubstr("decay"));
  EXPECT_THAT(message_of<UserError>([] { Swa(SwaOptions{.swa_lr = 0.0}); }), HasSubstr("swa_lr"));
  TensorLoader train = loader();
  EXPECT_THAT(
      message_of<UserError>([&] {
        Trainer({.max_steps = 3, .accelerator = "cpu", .callbacks = {std::make_shared<Swa>()}})
            .fit(net(), train);
      }),
      HasSubstr("share of max_epochs"));
}

}  // namespace
}  // namespace halftone::weight_averaging_test
