// SPDX-License-Identifier: Apache-2.0
// The Trainer beside Lightning's, where a value can be compared: tests/golden/lightning.json says
// what Lightning 2.6 does (make_lightning_golden.py), each case with its options. What differs on
// purpose is left out by name, with the reason; docs/guide.md has the same list.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/nn/modules/linear.h>
#include <torch/optim/sgd.h>
#include <torch/utils.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>

#include "halftone/core/error.h"
#include "halftone/train/early_stopping.h"
#include "halftone/train/model_checkpoint.h"
#include "halftone/train/trainer.h"
#include "halftone/train/weight_averaging.h"
#include "support/lightning_golden.h"
#include "support/temp_folder.h"

namespace halftone::lightning_test {
namespace {

using nlohmann::json;
using test::lightning_golden;
using test::TempFolder;
using torch::Tensor;

/// JSON has no nan and no inf.
double number(const json& value) {
  return value.is_string() ? std::stod(value.get<std::string>()) : value.get<double>();
}

EpochPart part(const json& value) {
  if (value.is_number_integer()) return value.get<std::int64_t>();
  return value.get<double>();
}

TrainerOptions trainer_options(const json& options) {
  TrainerOptions made{.accelerator = "cpu", .num_sanity_val_steps = 0};
  const auto number_of = [&](const char* name, auto& into) {
    if (options.contains(name) && !options[name].is_null())
      into = options[name].get<std::int64_t>();
  };
  const auto part_of = [&](const char* name, EpochPart& into) {
    if (options.contains(name)) into = part(options[name]);
  };
  number_of("max_epochs", made.max_epochs);
  number_of("max_steps", made.max_steps);
  number_of("accumulate_grad_batches", made.accumulate_grad_batches);
  number_of("num_sanity_val_steps", made.num_sanity_val_steps);
  number_of("check_val_every_n_epoch", made.check_val_every_n_epoch);
  part_of("val_check_interval", made.val_check_interval);
  part_of("limit_train_batches", made.limit_train_batches);
  part_of("limit_val_batches", made.limit_val_batches);
  part_of("overfit_batches", made.overfit_batches);
  if (options.contains("fast_dev_run"))
    made.fast_dev_run =
        options["fast_dev_run"].is_boolean() ? 1 : options["fast_dev_run"].get<std::int64_t>();
  if (made.max_epochs == -1) made.max_epochs.reset();
  return made;
}

std::vector<Tensor> batches(std::int64_t count) {
  std::vector<Tensor> made;
  for (std::int64_t i = 0; i < count; ++i) made.push_back(torch::full({2, 1}, 1.0 + i));
  return made;
}

/// Validation n logs `values`[n] as "value".
class Scripted : public TrainingModule<Tensor> {
 public:
  explicit Scripted(std::vector<double> values = {0.0}) : values_(std::move(values)) {}

  Tensor training_step(const Tensor& batch, std::int64_t /*index*/) override {
    ++train_batches;
    seen.push_back(batch[0].item<double>());
    return line_(batch * 1e-3).square().mean();
  }
  void validation_step(const Tensor& /*batch*/, std::int64_t /*index*/) override {
    ++validation_batches;
    log("value", values_[std::min(validations, values_.size() - 1)]);
  }
  void on_validation_end() override {
    ++validations;
    at_step.push_back(steps);
  }
  std::vector<OptimizerSetup> configure_optimizers(const OptimizerContext& /*context*/) override {
    return {std::make_shared<torch::optim::SGD>(parameters(), 0.1)};
  }
  void on_train_epoch_start(std::int64_t /*epoch*/) override { ++epochs_started; }
  void on_before_optimizer_step() override { ++steps; }

  std::int64_t train_batches = 0, validation_batches = 0, epochs_started = 0, steps = 0;
  std::size_t validations = 0;
  std::vector<std::int64_t> at_step;  // optimizer steps before each validation
  std::vector<double> seen;

 private:
  std::vector<double> values_;
  torch::nn::Linear line_ = register_module("line", torch::nn::Linear(1, 1));
};

/// Why a case of "validation_runs" is not compared; empty: it is.
std::string differs(const json& item) {
  const json& options = item["options"];
  const auto is_zero = [&](const char* name) {
    return options.contains(name) && options[name] == 0;
  };
  if (is_zero("max_steps") || is_zero("max_epochs") || is_zero("limit_train_batches"))
    return "a run without a step is an error here";
  if (is_zero("limit_val_batches")) return "a validation without a batch is one that logs nothing";
  if (options.contains("min_steps")) return "there is no min_steps";
  const bool counts =
      options.contains("val_check_interval") && options["val_check_interval"].is_number_integer();
  const bool over_run =
      options.contains("check_val_every_n_epoch") && options["check_val_every_n_epoch"].is_null();
  if (counts && !over_run &&
      item.value("train_batches", 0) % part(options["val_check_interval"]).count().value() != 0)
    return "an integer interval counts steps over the run here, batches of an epoch there";
  if (counts && options.contains("accumulate_grad_batches"))
    return "an integer interval counts steps here";
  if (counts && options.contains("max_steps"))
    return "an integer interval counts steps over the run here";
  if (counts && options.contains("check_val_every_n_epoch") && !over_run)
    return "an integer interval counts steps over the run here";
  if (item.contains("error") && counts) return "an interval may be longer than an epoch here";
  return "";
}

template <class Validation>
void fit(Scripted& module, const TrainerOptions& options, std::int64_t train,
         Validation& validation) {
  std::vector<Tensor> data = batches(train);
  Trainer(options).fit(module, data, validation);
}

void fit(Scripted& module, const json& item) {
  const TrainerOptions options = trainer_options(item["options"]);
  const auto lengths = item["val_batches"].get<std::vector<std::int64_t>>();
  const std::int64_t train = item["train_batches"].get<std::int64_t>();
  if (lengths.empty()) {
    std::vector<Tensor> data = batches(train);
    Trainer(options).fit(module, data);
  } else if (lengths.size() == 1) {
    std::vector<Tensor> validation = batches(lengths[0]);
    fit(module, options, train, validation);
  } else {
    std::vector<Tensor> first = batches(lengths[0]), second = batches(lengths[1]);
    Loaders both(first, second);
    fit(module, options, train, both);
  }
}

TEST(Lightning, ValidatesAsOften) {
  std::size_t compared = 0;
  for (const json& item : lightning_golden("validation_runs")) {
    SCOPED_TRACE(item.dump());
    if (!differs(item).empty()) continue;
    ++compared;
    Scripted module;
    if (item.contains("error")) {
      EXPECT_THROW(fit(module, item), UserError);
      continue;
    }
    fit(module, item);
    EXPECT_EQ(module.validations, item["validation_runs"].get<std::size_t>());
    EXPECT_EQ(module.train_batches, item["train_batches_run"].get<std::int64_t>());
    EXPECT_EQ(module.epochs_started, item["epochs_started"].get<std::int64_t>());
    EXPECT_EQ(module.steps, item["global_step"].get<std::int64_t>());
    std::int64_t validation_batches = 0;
    for (const json& batch : item["sanity_batches"])
      validation_batches += batch.get<std::int64_t>();
    std::vector<std::int64_t> at_step;
    for (const json& run : item["runs"]) {
      for (const json& batch : run["batches"]) validation_batches += batch.get<std::int64_t>();
      at_step.push_back(run["global_step"].get<std::int64_t>());
    }
    EXPECT_EQ(module.validation_batches, validation_batches) << "those tried out included";
    EXPECT_EQ(module.at_step, at_step);
  }
  EXPECT_GE(compared, 30U);
}

struct Epochs : Callback {
  void on_epoch_end(Trainer& trainer, std::int64_t /*epoch*/) override {
    ++count;
    step = trainer.loop().counters().step;
  }
  std::int64_t count = 0, step = 0;
};

// guide: EarlyStopping
TEST(Lightning, StopsEarlyInTheSameEpoch) {
  std::size_t compared = 0;
  for (const json& item : lightning_golden("early_stopping")) {
    SCOPED_TRACE(item.dump());
    const json& arguments = item["arguments"];
    if (item["options"].contains("min_epochs") || item["options"].contains("min_steps")) continue;
    // An improvement by min_delta, no more, is one there in the mode max of this case alone.
    ++compared;
    EarlyStoppingOptions options{.monitor = "value"};
    if (arguments.contains("mode") && arguments["mode"] == "max") options.mode = MonitorMode::kMax;
    options.min_delta = arguments.value("min_delta", 0.0);
    options.patience = arguments.value("patience", std::int64_t{3});
    options.check_finite = arguments.value("check_finite", true);
    if (arguments.contains("stopping_threshold"))
      options.stopping_threshold = arguments["stopping_threshold"].get<double>();
    if (arguments.contains("divergence_threshold"))
      options.divergence_threshold = arguments["divergence_threshold"].get<double>();
    std::vector<double> values;
    for (const json& value : item["values"]) values.push_back(number(value));
    // Values are those of epochs there, of validations here.
    const std::int64_t every = item["options"].value("check_val_every_n_epoch", 1);
    std::vector<double> validated;
    for (std::size_t i = static_cast<std::size_t>(every) - 1; i < values.size();
         i += static_cast<std::size_t>(every))
      validated.push_back(values[i]);
    const bool mid_epoch = item["options"].contains("val_check_interval");
    if (mid_epoch) validated = {values[0], values[0], values[1], values[1]};
    Scripted module(validated);
    const auto epochs = std::make_shared<Epochs>();
    TrainerOptions trainer = trainer_options(item["options"]);
    trainer.callbacks = {std::make_shared<EarlyStopping>(options), epochs};
    std::vector<Tensor> validation = batches(1);
    fit(module, trainer, item["batches_per_epoch"].get<std::int64_t>(), validation);
    EXPECT_EQ(epochs->count, item["epochs_run"].get<std::int64_t>());
    EXPECT_EQ(epochs->step, item["global_step"].get<std::int64_t>());
  }
  EXPECT_GE(compared, 20U);
}

// guide: ModelCheckpoint(save_top_k)
TEST(Lightning, KeepsTheSameBestCheckpoints) {
  std::size_t compared = 0;
  for (const json& item : lightning_golden("top_k")) {
    SCOPED_TRACE(item.dump());
    const json& arguments = item["arguments"];
    const auto is_finite = [](const json& value) { return std::isfinite(number(value)); };
    // A value that is not finite is never among the best here.
    const bool finite = std::all_of(item["values"].begin(), item["values"].end(), is_finite);
    if (!arguments.contains("monitor") || arguments.contains("save_last") ||
        arguments.contains("every_n_epochs") || arguments.contains("every_n_train_steps") ||
        item.contains("error") || !finite || !item["options"].empty())
      continue;
    ++compared;
    const TempFolder folder;
    ModelCheckpointOptions options{.monitor = "value"};
    options.save_top_k = arguments.value("save_top_k", std::int64_t{1});
    if (arguments.contains("mode") && arguments["mode"] == "max") options.mode = MonitorMode::kMax;
    std::vector<double> values;
    for (const json& value : item["values"]) values.push_back(number(value));
    Scripted module(values);
    TrainerOptions trainer = trainer_options({{"max_epochs", values.size()}});
    trainer.default_root_dir = folder / "run";
    trainer.callbacks = {std::make_shared<ModelCheckpoint>(options)};
    std::vector<Tensor> validation = batches(1);
    fit(module, trainer, item["batches_per_epoch"].get<std::int64_t>(), validation);
    std::vector<std::int64_t> steps;
    for (const json& file : item["files"]) steps.push_back(file["global_step"].get<std::int64_t>());
    std::sort(steps.begin(), steps.end());
    EXPECT_EQ(checkpoint_steps(folder / "run/best"), steps);
    if (item["best_epoch"].is_null()) continue;
    const auto best_step = (item["best_epoch"].get<std::int64_t>() + 1) *
                           item["batches_per_epoch"].get<std::int64_t>();
    Scripted fresh;
    EXPECT_EQ(Trainer(trainer).load("best", fresh).step, best_step);
  }
  EXPECT_GE(compared, 12U);
}

/// y = w x + b, in fp64 there and in fp32 here.
struct Line : TrainingModule<torch::data::Example<>> {
  Line(const json& start, double the_lr) : lr(the_lr) {
    const torch::NoGradGuard no_grad;
    line->weight.fill_(start[0].get<double>());
    line->bias.fill_(start[1].get<double>());
  }
  Tensor training_step(const Batch& batch, std::int64_t /*index*/) override {
    return (line(batch.data) - batch.target).square().mean();
  }
  void validation_step(const Batch& /*batch*/, std::int64_t /*index*/) override {
    validated.push_back(values());
    log("value", 0.0);
  }
  std::vector<OptimizerSetup> configure_optimizers(const OptimizerContext& /*context*/) override {
    return {std::make_shared<torch::optim::SGD>(parameters(), lr)};
  }
  std::vector<double> values() const {
    return {line->weight.item<double>(), line->bias.item<double>()};
  }
  torch::nn::Linear line = register_module("line", torch::nn::Linear(1, 1));
  std::vector<std::vector<double>> validated;
  double lr;
};

std::vector<torch::data::Example<>> line_data(const json& item) {
  const auto x = item["x"].get<std::vector<double>>();
  const auto y = item["y"].get<std::vector<double>>();
  const auto size = item["batch_size"].get<std::size_t>();
  const auto column = [&](const std::vector<double>& values, std::size_t at) {
    return torch::tensor(std::vector<double>(values.begin() + static_cast<std::ptrdiff_t>(at),
                                             values.begin() + static_cast<std::ptrdiff_t>(std::min(
                                                                  at + size, values.size()))))
        .to(torch::kFloat)
        .unsqueeze(1);
  };
  std::vector<torch::data::Example<>> data;
  for (std::size_t at = 0; at < x.size(); at += size)
    data.emplace_back(column(x, at), column(y, at));
  return data;
}

void expect_near(const std::vector<double>& got, const json& expected) {
  ASSERT_EQ(got.size(), expected.size());
  for (std::size_t i = 0; i < got.size(); ++i) EXPECT_NEAR(got[i], expected[i].get<double>(), 2e-5);
}

struct Averages : Callback {
  explicit Averages(std::shared_ptr<WeightAveraging> the_average)
      : average(std::move(the_average)) {}
  void on_step_end(Trainer& /*trainer*/, const StepMetrics& /*metrics*/) override {
    if (!average->averages().empty())
      seen.push_back({average->averages().at("line.weight").item<double>(),
                      average->averages().at("line.bias").item<double>()});
  }
  std::shared_ptr<WeightAveraging> average;
  std::vector<std::vector<double>> seen;
};

// guide: EMAWeightAveraging
TEST(Lightning, AveragesExponentiallyToTheSameWeights) {
  std::size_t compared = 0;
  for (const json& item : lightning_golden("ema")) {
    SCOPED_TRACE(item["arguments"].dump() + item["options"].dump());
    const json& arguments = item["arguments"];
    // Every n-th step is n, 2n, ... here and 1, n + 1, ... there; by epochs there is none here.
    if (item["callback"] != "EMAWeightAveraging" || !item.contains("averaged") ||
        arguments.contains("update_every_n_steps") ||
        arguments.contains("update_starting_at_epoch"))
      continue;
    if (arguments.value("update_starting_at_step", 0) >= 100) continue;  // no update at all
    ++compared;
    Line module(item["start"], item["lr"].get<double>());
    const auto ema = std::make_shared<Ema>(
        EmaOptions{.decay = arguments["decay"].get<double>(),
                   .start_step = arguments.value("update_starting_at_step", std::int64_t{0})});
    const auto averages = std::make_shared<Averages>(ema);
    TrainerOptions options = trainer_options(item["options"]);
    options.callbacks = {ema, averages};
    const TempFolder folder;
    options.default_root_dir = folder / "run";
    auto data = line_data(item);
    std::vector<torch::data::Example<>> validation = {data.front()};
    Trainer trainer(options);
    trainer.fit(module, data, validation);
    std::vector<json> expected;
    for (const json& average : item["averaged"])
      if (!average.is_null()) expected.push_back(average);
    // Until the first update there is none here; there it is the initial weights.
    const auto start = arguments.value("update_starting_at_step", std::size_t{0});
    ASSERT_EQ(averages->seen.size() + start, expected.size());
    const std::size_t skipped = start;
    for (std::size_t i = 0; i < averages->seen.size(); ++i)
      expect_near(averages->seen[i], expected[i + skipped]);
    expect_near(module.values(), item["final"]);
    EXPECT_GT(averages->seen.size(), 3U);
    if (skipped == 0) {
      ASSERT_EQ(module.validated.size(), item["validated"].size());
      for (std::size_t i = 0; i < module.validated.size(); ++i)
        expect_near(module.validated[i], item["validated"][i]);
    }
    const SavedModel saved = load_saved_model(folder / "run");
    EXPECT_NEAR(saved.weights.tensor("line.weight").item<double>(), item["final"][0].get<double>(),
                2e-5)
        << "the averages are what is saved";
  }
  EXPECT_GE(compared, 5U);
}

struct Rates : Callback {
  void add_metrics(Trainer& trainer, StepMetrics& /*metrics*/) override {
    const auto& groups = trainer.loop().optimizers().front().optimizer->param_groups();
    lr.push_back(groups.front().options().get_lr());
  }
  std::vector<double> lr;
};

// guide: StochasticWeightAveraging
TEST(Lightning, AnnealsToTheSameRatesInSwa) {
  std::size_t compared = 0;
  for (const json& item : lightning_golden("swa")) {
    SCOPED_TRACE(item["arguments"].dump() + item["options"].dump());
    const json& arguments = item["arguments"];
    if (!item["scheduler"].is_null() || item.value("batch_norm", false)) continue;
    ++compared;
    SwaOptions options{.swa_lr = arguments["swa_lrs"].get<double>()};
    options.swa_epoch_start = arguments.value("swa_epoch_start", 0.8);
    options.annealing_epochs = arguments.value("annealing_epochs", std::int64_t{10});
    if (arguments.value("annealing_strategy", "cos") == "linear")
      options.annealing = Annealing::kLinear;
    Line module(item["start"], item["base_lr"].get<double>());
    const auto rates = std::make_shared<Rates>();
    const auto swa = std::make_shared<Swa>(options);
    TrainerOptions trainer = trainer_options(item["options"]);
    trainer.callbacks = {swa, rates};
    auto data = line_data(item);
    Trainer(trainer).fit(module, data);
    const auto expected = item["lr"][0].get<std::vector<double>>();
    ASSERT_EQ(rates->lr.size(), expected.size());
    for (std::size_t i = 0; i < expected.size(); ++i)
      EXPECT_NEAR(rates->lr[i], expected[i], 1e-12) << i;
    EXPECT_EQ(swa->updates(), item["n_averaged"].get<std::int64_t>());
  }
  EXPECT_GE(compared, 9U);
}

}  // namespace
}  // namespace halftone::lightning_test
