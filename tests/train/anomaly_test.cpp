// SPDX-License-Identifier: Apache-2.0
// Runs that end because their numbers are not finite: what is said, what is written, and that the
// steps since the last checkpoint are taken again with the same bits where the weights are gone.
#include "halftone/train/anomaly.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/optim/sgd.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "halftone/core/error.h"
#include "halftone/data/tensor_loader.h"
#include "halftone/nn/linear.h"
#include "halftone/optim/adamw.h"
#include "halftone/train/model_checkpoint.h"
#include "halftone/train/trainer.h"
#include "support/message_of.h"
#include "support/temp_folder.h"

namespace halftone::anomaly_test {
namespace {

using test::message_of;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;
using torch::Tensor;
using Json = nlohmann::json;
using Kind = NonFiniteOrigin::Kind;

constexpr std::int64_t kWidth = 16;
constexpr float kMark = 77.0F;

/// Rows of random numbers; the first number of row `marked` is a mark.
TensorLoader loader_with(std::int64_t rows, std::int64_t marked, bool shuffle = true) {
  torch::manual_seed(4);
  Tensor data = torch::randn({rows, kWidth});
  if (marked >= 0) data[marked][0] = kMark;
  return TensorLoader({data, torch::randn({rows, 1})},
                      {.batch_size = 2, .shuffle = shuffle, .seed = 6});
}

bool has_mark(const Tensor& data) { return data.to(torch::kFloat).eq(kMark).any().item<bool>(); }

/// Two layers with dropout between them, and a weight that takes no part in the loss.
struct Net : TrainingModule<> {
  Net() {
    torch::manual_seed(3);
    first = register_module("first", Linear(kWidth, kWidth));
    last = register_module("last", Linear(kWidth, 1));
    fault = register_parameter("fault", torch::ones({3}));
  }

  Tensor training_step(const Batch& batch, std::int64_t /*index*/) override {
    count_tokens(batch.data.size(0));
    const bool marked = has_mark(batch.data);
    const Tensor data = marked ? batch.data.masked_fill(batch.data.eq(kMark), 0.5) : batch.data;
    const Tensor hidden = torch::dropout(first(data).relu(), 0.25, /*train=*/true);
    Tensor loss = (last(hidden) - batch.target).to(torch::kFloat).square().mean();
    loss = marked ? spoiled(loss) : healthy(loss);
    losses.push_back(loss.item<float>());
    return loss;
  }
  std::vector<OptimizerSetup> configure_optimizers(const OptimizerContext& /*context*/) override {
    auto slow = std::make_unique<torch::optim::SGDOptions>(1e-2);
    auto fast = std::make_unique<torch::optim::SGDOptions>(6e4);
    std::vector<torch::optim::OptimizerParamGroup> groups;
    groups.emplace_back(std::vector<Tensor>{first->weight, last->weight}, std::move(slow));
    groups.emplace_back(std::vector<Tensor>{fault}, std::move(fast));
    return {std::make_shared<torch::optim::SGD>(groups, torch::optim::SGDOptions(1e-2))};
  }
  /// The loss of a batch with a mark.
  virtual Tensor spoiled(const Tensor& loss) { return loss; }
  virtual Tensor healthy(const Tensor& loss) { return loss; }

  Linear first{nullptr}, last{nullptr};
  Tensor fault;
  std::vector<float> losses;  // of every training_step()
};

/// A gradient of `fault` whose update is beyond the weights' format.
struct BadUpdate : Net {
  Tensor spoiled(const Tensor& loss) override {
    const bool fp16 = fault.scalar_type() == torch::kHalf;
    return loss + nothing() * (fp16 ? 10.0 : 5e34);
  }
  Tensor healthy(const Tensor& loss) override { return loss * (1 + nothing() * 0); }
  /// 0 with a gradient; nan once the weight is bad.
  Tensor nothing() const { return (fault - fault.detach()).to(torch::kFloat).sum(); }
};

struct BadLoss : Net {
  Tensor spoiled(const Tensor& loss) override { return (loss * 0).log() * -1; }
};

/// Random numbers between the steps, as a validation may take them.
struct Draws : Callback {
  void on_step_end(Trainer& /*trainer*/, const StepMetrics& metrics) override {
    if (metrics.step % 2 == 0) torch::rand({3});
  }
};

struct RunSetup {
  std::string precision = "32-true";
  std::int64_t accumulate = 2;
  std::int64_t save_every = 5;
  bool detect = true;
};

TrainerOptions options_for(const std::filesystem::path& folder, const RunSetup& setup) {
  TrainerOptions options{.max_steps = 60,
                         .precision = setup.precision,
                         .accelerator = "cpu",
                         .accumulate_grad_batches = setup.accumulate,
                         .callbacks = {std::make_shared<Draws>()},
                         .enable_progress_bar = false,
                         .default_root_dir = folder,
                         .detect_anomaly = setup.detect,
                         .scaler = {.init_scale = 1024}};
  options.callbacks.push_back(std::make_shared<ModelCheckpoint>(ModelCheckpointOptions{
      .every_n_steps = setup.save_every, .every_n_epochs = 0, .keep_last = 20}));
  return options;
}

std::optional<Anomaly> anomaly_of(Trainer& trainer, Net& module, TensorLoader& loader,
                                  const FitOptions& how = {}) {
  try {
    trainer.fit(module, loader, how);
  } catch (const AnomalyError& error) {
    EXPECT_EQ(error.what(), to_string(error.anomaly()));
    EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos);
    return error.anomaly();
  }
  ADD_FAILURE() << "the run ended well";
  return std::nullopt;
}

std::vector<std::uint32_t> bits(const std::vector<float>& values) {
  std::vector<std::uint32_t> all;
  for (const float value : values) all.push_back(std::bit_cast<std::uint32_t>(value));
  return all;
}

Json read_json(const std::filesystem::path& path) { return Json::parse(test::read_text(path)); }

// ---- the same bits

class AnomalyReplay : public testing::TestWithParam<RunSetup> {};

TEST_P(AnomalyReplay, TakesTheStepsAgainBitForBit) {
  const RunSetup& setup = GetParam();
  const test::TempFolder folder;
  TensorLoader loader = loader_with(100, 41);
  BadUpdate module;
  Trainer trainer(options_for(folder / "run", setup));
  const auto anomaly = anomaly_of(trainer, module, loader);
  ASSERT_TRUE(anomaly.has_value());
  SCOPED_TRACE(to_string(*anomaly));
  ASSERT_TRUE(anomaly->origin.has_value());
  EXPECT_EQ(anomaly->origin->kind, Kind::kUpdate);
  EXPECT_THAT(anomaly->origin->site.parameters, ElementsAre("fault"));
  ASSERT_TRUE(anomaly->replay.has_value());
  EXPECT_EQ(anomaly->replay->checkpoint, (anomaly->step - 1) / 5 * 5);
  ASSERT_GE(anomaly->replay->checkpoint, 5) << "the test needs a checkpoint before the step";
  EXPECT_EQ(anomaly->replay->steps, anomaly->step - anomaly->replay->checkpoint);
  EXPECT_TRUE(anomaly->replay->same_losses);

  const auto again = static_cast<std::ptrdiff_t>(anomaly->replay->steps * setup.accumulate);
  const auto first_pass = module.losses.end() - again;
  ASSERT_GE(std::ssize(module.losses), 2 * again);
  EXPECT_EQ(bits({first_pass, module.losses.end()}), bits({first_pass - again, first_pass}));
}

TEST_P(AnomalyReplay, TellsTheNumbersBeforeTheUpdate) {
  const test::TempFolder folder;
  TensorLoader loader = loader_with(100, 41);
  BadUpdate module;
  Trainer trainer(options_for(folder / "run", GetParam()));
  const auto anomaly = anomaly_of(trainer, module, loader);
  ASSERT_TRUE(anomaly && anomaly->origin);
  const std::vector<TensorFacts>& inputs = anomaly->origin->diagnosis.inputs;
  ASSERT_EQ(inputs.size(), 2);
  EXPECT_EQ(inputs[0].name, "before");
  EXPECT_EQ(inputs[0].non_finite, 0);
  EXPECT_EQ(inputs[0].max_abs, 1.0);
  EXPECT_EQ(inputs[1].name, "gradient");
  const double slope = GetParam().precision == "16-true" ? 10.0 : 5e34;
  EXPECT_NEAR(inputs[1].max_abs * GetParam().accumulate / slope, 1.0, 0.01);
  EXPECT_EQ(anomaly->origin->diagnosis.cause, NonFiniteCause::kOverflow);
  EXPECT_THAT(to_string(*anomaly),
              AllOf(HasSubstr("the update makes the parameter 'fault' non-finite"),
                    HasSubstr("'fault' before it "), HasSubstr("gradient of 'fault' "),
                    HasSubstr("remedy: a lower --lr")));
}

INSTANTIATE_TEST_SUITE_P(
    Every, AnomalyReplay,
    testing::Values(RunSetup{.precision = "32-true"},
                    RunSetup{.precision = "32-true", .accumulate = 1},
                    RunSetup{.precision = "bf16-mixed"}, RunSetup{.precision = "16-mixed"},
                    RunSetup{.precision = "16-true"}, RunSetup{.precision = "int8-mixed"},
                    RunSetup{.precision = "fp8-mixed"}),
    [](const auto& one) {
      std::string name = one.param.precision + "_by_" + std::to_string(one.param.accumulate);
      std::replace(name.begin(), name.end(), '-', '_');
      return name;
    });

// A schedule over time sees the time of then.
TEST(Anomaly, TakesTheStepsAgainAtTheirOwnTime) {
  struct Timed : BadUpdate {
    std::vector<OptimizerSetup> configure_optimizers(const OptimizerContext& context) override {
      std::vector<OptimizerSetup> setups = BadUpdate::configure_optimizers(context);
      setups[0].schedule = LrScheduleOptions{.kind = parse_schedule("cosine"), .lr = 1e-2};
      return setups;
    }
  } module;
  const test::TempFolder folder;
  TensorLoader loader = loader_with(100, 41);
  TrainerOptions options = options_for(folder / "run", {});
  options.max_steps.reset();
  options.max_time = 3.0;  // no step takes as long as the one before
  Trainer trainer(std::move(options));
  const auto anomaly = anomaly_of(trainer, module, loader);
  ASSERT_TRUE(anomaly && anomaly->replay);
  EXPECT_TRUE(anomaly->replay->same_losses) << to_string(*anomaly);
}

// ---- without a checkpoint

TEST(Anomaly, SaysWhatWouldFindMore) {
  const test::TempFolder folder;
  TensorLoader loader = loader_with(100, 41);
  BadUpdate module;
  Trainer trainer(options_for(folder / "run", {.save_every = 0}));
  const auto anomaly = anomaly_of(trainer, module, loader);
  ASSERT_TRUE(anomaly && anomaly->origin);
  EXPECT_FALSE(anomaly->replay.has_value());
  EXPECT_THAT(to_string(*anomaly),
              AllOf(HasSubstr("'fault' after it fp32 [3], none finite"),
                    HasSubstr("no checkpoint from before this step"), HasSubstr("save_every")));

  BadUpdate without_folder;
  TrainerOptions options = options_for("", {});
  options.callbacks.clear();
  Trainer alone(std::move(options));
  const auto found = anomaly_of(alone, without_folder, loader);
  ASSERT_TRUE(found.has_value());
  EXPECT_THAT(to_string(*found), HasSubstr("a default_root_dir and a checkpoint"));
}

// ---- released gradients

/// The gradient of the first layer is not finite, the later layers have been updated by then.
struct Lomo : TrainingModule<> {
  struct Spoil : torch::autograd::Function<Spoil> {
    static Tensor forward(torch::autograd::AutogradContext*, const Tensor& x) { return x.clone(); }
    static torch::autograd::variable_list backward(torch::autograd::AutogradContext*,
                                                   const torch::autograd::variable_list& g) {
      return {g[0] * 1e30 * 1e30};
    }
  };
  Lomo() {
    torch::manual_seed(3);
    first = register_module("first", Linear(kWidth, kWidth));
    last = register_module("last", Linear(kWidth, 1));
  }
  Tensor training_step(const Batch& batch, std::int64_t /*index*/) override {
    Tensor hidden = first(batch.data.clamp_max(10)).relu();
    if (has_mark(batch.data)) hidden = Spoil::apply(hidden);
    const Tensor loss = (last(hidden) - batch.target).square().mean();
    losses.push_back(loss.item<float>());
    last_weights.push_back(last->weight.detach().clone());
    return loss;
  }
  std::vector<OptimizerSetup> configure_optimizers(const OptimizerContext& context) override {
    std::vector<std::pair<std::string, Tensor>> named;
    for (const auto& item : named_parameters()) named.emplace_back(item.key(), item.value());
    return {std::make_shared<AdamW>(std::move(named), context.adamw({.lr = 1e-2, .seed = 9}))};
  }
  Linear first{nullptr}, last{nullptr};
  std::vector<float> losses;
  std::vector<Tensor> last_weights;
};

TEST(Anomaly, SearchesWithTheWeightsFromBeforeTheReleasedStep) {
  const test::TempFolder folder;
  TensorLoader loader = loader_with(60, 31);
  Lomo module;
  TrainerOptions options =
      options_for(folder / "run", {.precision = "bf16-mixed", .accumulate = 1});
  options.memory.memory = "leanest";
  Trainer trainer(std::move(options));
  std::optional<Anomaly> anomaly;
  try {
    trainer.fit(module, loader);
  } catch (const AnomalyError& error) {
    anomaly = error.anomaly();
  }
  ASSERT_TRUE(anomaly && anomaly->origin && anomaly->replay);
  SCOPED_TRACE(to_string(*anomaly));
  EXPECT_TRUE(anomaly->replay->same_losses);
  EXPECT_EQ(anomaly->origin->kind, Kind::kBackward);
  EXPECT_EQ(anomaly->origin->site.operation, "aten::mul");
  EXPECT_EQ(anomaly->origin->gradient, "first.weight");
  EXPECT_EQ(anomaly->note, "");
  // The last computation is that of the search, with the weights of the step.
  const std::size_t bad = static_cast<std::size_t>(anomaly->step) - 1;
  EXPECT_TRUE(module.last_weights.back().equal(module.last_weights[bad]));
  EXPECT_FALSE(module.last_weights[bad + 1].equal(module.last_weights[bad]))
      << "the first search saw weights that the step had changed: the test has no point otherwise";
}

// ---- going on

TEST(Anomaly, IsFoundByResumingARunThatWentBad) {
  const test::TempFolder folder;
  TensorLoader loader = loader_with(100, 41);
  {
    BadUpdate module;
    Trainer trainer(options_for(folder / "run", {.detect = false}));
    const auto anomaly = anomaly_of(trainer, module, loader);
    ASSERT_TRUE(anomaly && anomaly->origin);
    EXPECT_EQ(anomaly->origin->kind, Kind::kParameter);
    EXPECT_THAT(to_string(*anomaly), AllOf(HasSubstr("the last 10 updates were skipped"),
                                           HasSubstr("resuming with detect_anomaly")));
    EXPECT_TRUE(std::filesystem::exists(folder / "run/anomaly.json"));
  }
  BadUpdate module;
  Trainer trainer(options_for(folder / "run", {}));
  const auto anomaly = anomaly_of(trainer, module, loader, {.resume = true});
  ASSERT_TRUE(anomaly && anomaly->origin && anomaly->replay);
  EXPECT_EQ(anomaly->origin->kind, Kind::kUpdate);
  EXPECT_LE(anomaly->replay->checkpoint, anomaly->step - 1);
  EXPECT_EQ(read_json(folder / "run/anomaly.json")["step"], anomaly->step);
}

TEST(Anomaly, ForgetsThatOfAPartBefore) {
  const test::TempFolder folder;
  TensorLoader loader = loader_with(40, 11);
  BadLoss module;
  Trainer trainer(options_for(folder / "run", {.save_every = 1}));
  anomaly_of(trainer, module, loader);
  ASSERT_TRUE(std::filesystem::exists(folder / "run/anomaly.json"));
  TrainerOptions options = options_for(folder / "run", {});
  options.max_steps = 12;
  Net mended;
  Trainer(std::move(options)).fit(mended, loader, {.resume = true});
  EXPECT_FALSE(std::filesystem::exists(folder / "run/anomaly.json"));
}

// ---- what is written

TEST(Anomaly, IsWrittenForAMachine) {
  const test::TempFolder folder;
  TensorLoader loader = loader_with(40, 11, /*shuffle=*/false);  // row 11: batch 5, of step 3
  BadLoss module;
  Trainer trainer(options_for(folder / "run", {}));
  const auto anomaly = anomaly_of(trainer, module, loader);
  ASSERT_TRUE(anomaly.has_value());
  const Json json = read_json(folder / "run/anomaly.json");
  EXPECT_EQ(json["format_version"], 1);
  EXPECT_EQ(json["step"], 3);
  EXPECT_EQ(json["epoch"], 1);
  EXPECT_EQ(json["batch"], 5);
  EXPECT_EQ(json["micro_batch"], 2);
  EXPECT_EQ(json["micro_batches"], 2);
  EXPECT_EQ(json["precision"], "32-true");
  EXPECT_EQ(json["loss"], "inf");
  EXPECT_EQ(json["scale"], nullptr);
  EXPECT_EQ(json["kind"], "forward");
  EXPECT_EQ(json["cause"], "log of zero");
  EXPECT_EQ(json["operation"], "aten::log");
  EXPECT_EQ(json["direction"], "forward");
  EXPECT_EQ(json["parameters"], Json({"last.weight"}));
  ASSERT_EQ(json["inputs"].size(), 1);
  EXPECT_EQ(json["inputs"][0]["name"], "self");
  EXPECT_EQ(json["inputs"][0]["dtype"], "fp32");
  EXPECT_EQ(json["inputs"][0]["shape"], Json::array());
  EXPECT_EQ(json["inputs"][0]["zeros"], 1);
  EXPECT_EQ(json["inputs"][0]["non_finite"], 0);
  EXPECT_EQ(json["message"], to_string(*anomaly));
  EXPECT_THAT(to_string(*anomaly), AllOf(HasSubstr("in micro-batch 2 of 2: it takes the logarithm "
                                                   "of zero: the input is 0"),
                                         HasSubstr("; remedy: clamp its input")));
}

TEST(Anomaly, NamesTheRowOfBadData) {
  struct Plain : Net {
    Tensor training_step(const Batch& batch, std::int64_t /*index*/) override {
      return (last(first(batch.data)) - batch.target).square().mean();
    }
  } module;
  const test::TempFolder folder;
  Tensor data = torch::randn({40, kWidth});
  data[13][4] = std::numeric_limits<float>::quiet_NaN();
  TensorLoader loader({data, torch::zeros({40, 1})}, {.batch_size = 4, .shuffle = false});
  Trainer trainer(options_for(folder / "run", {.accumulate = 1}));
  const auto anomaly = anomaly_of(trainer, module, loader);
  ASSERT_TRUE(anomaly && anomaly->origin);
  EXPECT_EQ(anomaly->origin->kind, Kind::kInput);
  EXPECT_EQ(anomaly->batch, 3);
  EXPECT_THAT(to_string(*anomaly),
              AllOf(HasSubstr("it came in with the data: 1 of 64 values, the first at [1, 4], in "
                              "row 1, of batch 3 of epoch 1"),
                    HasSubstr("remedy: look at this batch")));
}

// An overflow of scaled gradients is what a scale is for; a loss that is not finite is not.
TEST(Anomaly, IsNoScaleThatIsTooLarge) {
  TensorLoader loader = loader_with(40, -1);
  BadLoss module;
  TrainerOptions options = options_for("", {.precision = "16-mixed", .accumulate = 1});
  options.callbacks.clear();
  options.scaler.init_scale = 16777216.0;
  options.max_steps = 12;
  EXPECT_NO_THROW(Trainer(std::move(options)).fit(module, loader));

  TensorLoader marked = loader_with(40, 11);
  BadLoss sick;
  TrainerOptions watched = options_for("", {.precision = "16-mixed", .accumulate = 1});
  watched.callbacks.clear();
  Trainer trainer(std::move(watched));
  const auto anomaly = anomaly_of(trainer, sick, marked);
  ASSERT_TRUE(anomaly.has_value());
  EXPECT_THAT(to_string(*anomaly), HasSubstr("the loss of step"));
  EXPECT_EQ(anomaly->scale, 1024.0);
}

TEST(Anomaly, NamesWeightsThatWereBadBefore) {
  BadLoss module;
  {
    const torch::NoGradGuard no_grad;
    module.fault[1] = std::numeric_limits<float>::infinity();
  }
  TensorLoader loader = loader_with(40, -1);
  TrainerOptions options = options_for("", {});
  options.callbacks.clear();
  Trainer trainer(std::move(options));
  const auto anomaly = anomaly_of(trainer, module, loader);
  ASSERT_TRUE(anomaly && anomaly->origin);
  EXPECT_EQ(anomaly->step, 1);
  EXPECT_EQ(anomaly->origin->kind, Kind::kParameter);
  EXPECT_EQ(anomaly->origin->diagnosis.cause, NonFiniteCause::kBadWeights);
  EXPECT_THAT(to_string(*anomaly),
              AllOf(HasSubstr("before step 1 weights are not finite"),
                    HasSubstr("'fault' is not finite itself: 1 of 3 values, the first at [1]")));
}

}  // namespace
}  // namespace halftone::anomaly_test
