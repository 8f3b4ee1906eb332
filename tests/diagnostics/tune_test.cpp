// SPDX-License-Identifier: Apache-2.0
// The choice of formats: its parts on numbers that are known, and the whole on a small model, whose
// reference computes in fp8: no CPU multiplies that, so that other formats are faster everywhere.
#include "halftone/diagnostics/tune/tune.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/nn/modules/linear.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <tuple>
#include <vector>

#include "halftone/core/error.h"
#include "halftone/diagnostics/tune/choose_precision.h"
#include "halftone/diagnostics/tune/format_solver.h"
#include "halftone/diagnostics/tune/layer_errors.h"
#include "halftone/diagnostics/tune/layer_patterns.h"
#include "halftone/diagnostics/tune/layer_times.h"
#include "halftone/diagnostics/tune/step_gradients.h"
#include "halftone/diagnostics/tune/tunable_layers.h"
#include "halftone/diagnostics/tune/whole_step.h"
#include "halftone/inspect/site.h"
#include "halftone/models/causal_lm.h"
#include "halftone/precision/keep_fp32.h"
#include "halftone/train/layer_precision.h"
#include "halftone/train/training_module.h"
#include "support/message_of.h"
#include "support/narrow_model.h"

namespace halftone::tune_test {
namespace {

using test::message_of;
using testing::HasSubstr;
using torch::Tensor;

// ---- the solver

double total(const std::vector<std::vector<FormatOption>>& groups,
             const std::vector<std::size_t>& choice, double FormatOption::*field) {
  double sum = 0;
  for (std::size_t i = 0; i < groups.size(); ++i) sum += groups[i][choice[i]].*field;
  return sum;
}

/// The least time of all choices within the budget, by trying them all.
double least_time(const std::vector<std::vector<FormatOption>>& groups) {
  double best = std::numeric_limits<double>::infinity();
  std::vector<std::size_t> choice(groups.size(), 0);
  while (true) {
    if (total(groups, choice, &FormatOption::share) <= 1)
      best = std::min(best, total(groups, choice, &FormatOption::seconds));
    std::size_t i = 0;
    while (i < groups.size() && ++choice[i] == groups[i].size()) choice[i++] = 0;
    if (i == groups.size()) return best;
  }
}

TEST(FormatSolver, FindsTheFastestOfAllChoicesWithinTheBudget) {
  std::mt19937 random(3);
  // Shares that are whole units, so that rounding them up changes nothing.
  std::uniform_int_distribution<int> units(0, 9000);
  std::uniform_real_distribution<double> seconds(0.1, 1.0);
  for (int round = 0; round < 40; ++round) {
    std::vector<std::vector<FormatOption>> groups(6);
    for (auto& group : groups) {
      group.push_back({.seconds = 1.0});
      for (int i = 0; i < 2; ++i)
        group.push_back({.seconds = seconds(random), .share = units(random) / 20000.0});
    }
    const std::vector<std::size_t> choice = fastest_within_budget(groups);
    EXPECT_LE(total(groups, choice, &FormatOption::share), 1.0);
    EXPECT_NEAR(total(groups, choice, &FormatOption::seconds), least_time(groups), 1e-12);
  }
}

TEST(FormatSolver, NeverExceedsTheBudgetAndTakesWhatIsFree) {
  const double never = std::numeric_limits<double>::infinity();
  const std::vector<std::size_t> choice =
      fastest_within_budget({{{2.0, 0.0}, {1.0, 0.0}},
                             {{2.0, 0.0}, {1.0, 1.0 + 1e-9}},
                             {{2.0, 0.0}, {1.0, never}},
                             {{2.0, 0.0}, {1.0, 0.50001}, {1.5, 0.4}},
                             {{2.0, 0.0}, {1.0, 0.50001}}});
  EXPECT_EQ(choice[0], 1U);
  EXPECT_EQ(choice[1], 0U);
  EXPECT_EQ(choice[2], 0U);
  EXPECT_EQ(choice[3] + choice[4], 3U) << "one of the two, and the cheap one of the other";
  EXPECT_TRUE(fastest_within_budget({}).empty());
}

// ---- patterns

std::map<std::string, ComputeType> all_layers(torch::nn::Module& network, ComputeType recipe) {
  std::map<std::string, ComputeType> all;
  for (const auto& [path, type] : layer_types(network, {".*=int8"}, parse_precision("bf16-mixed")))
    all[path] = recipe;
  return all;
}

CausalLM small_model(bool moe = false) { return test::narrow_model(3, moe); }

TEST(LayerPatterns, GiveBackAnyChoice) {
  std::mt19937 random(4);
  const PrecisionPolicy policy = parse_precision("bf16-mixed");
  for (const bool moe : {false, true}) {
    CausalLM model = small_model(moe);
    for (int round = 0; round < 20; ++round) {
      auto all = all_layers(*model, ComputeType::kBFloat16);
      std::map<std::string, ComputeType> chosen;
      for (auto& [path, type] : all) {
        const auto draw = random() % 6;
        if (draw == 0) type = ComputeType::kInt8;
        if (draw == 1 && round % 2 == 0) type = ComputeType::kFloat32;
        if (type != ComputeType::kBFloat16) chosen[path] = type;
      }
      for (const bool by_parents : {false, true})
        EXPECT_EQ(
            layer_types(*model, layer_precision_texts(all, ComputeType::kBFloat16, by_parents),
                        policy),
            chosen);
    }
  }
}

TEST(LayerPatterns, AreShortWhereLayersAreAlike) {
  CausalLM model = small_model();
  auto all = all_layers(*model, ComputeType::kBFloat16);
  const auto texts = [&](bool by_parents) {
    return layer_precision_texts(all, ComputeType::kBFloat16, by_parents);
  };
  EXPECT_TRUE(texts(true).empty());
  for (auto& [path, type] : all)
    if (path.ends_with(".w2")) type = ComputeType::kInt8;
  EXPECT_EQ(texts(true), std::vector<std::string>{R"(^layers\.\d+\.feed_forward\.w2$=int8)"});
  for (auto& [path, type] : all)
    if (path != "tok_embeddings") type = ComputeType::kInt8;
  EXPECT_EQ(texts(true), std::vector<std::string>{"^layers$=int8"});
  for (auto& [path, type] : all) type = ComputeType::kInt8;
  EXPECT_EQ(texts(true), std::vector<std::string>{".*=int8"});
  EXPECT_EQ(texts(false).size(), 1U);
  EXPECT_EQ(without_places("layers.3.experts.12.w1"), "layers.*.experts.*.w1");
}

// ---- a step of a small model

struct TokenPair {
  Tensor ids, targets;
  auto tensors() { return std::tie(ids, targets); }
};

class Model : public TrainingModule<TokenPair> {
 public:
  explicit Model(bool moe = false) : model_(small_model(moe)) {}
  Tensor training_step(const TokenPair& batch, std::int64_t /*index*/) override {
    return model_->loss(batch.ids, batch.targets, torch::ones(batch.ids.sizes())).total();
  }
  std::vector<OptimizerSetup> configure_optimizers(const OptimizerContext& /*context*/) override {
    return {};
  }
  torch::nn::Module& network() override { return *model_; }
  CausalLM& model() { return model_; }

 private:
  CausalLM model_;
};

TokenPair batch_of(std::uint64_t seed) {
  torch::manual_seed(seed);
  const Tensor ids = torch::randint(120, {4, 33});
  return {ids.narrow(1, 0, 32).contiguous(), ids.narrow(1, 1, 32).contiguous()};
}

MixedPrecision precision_of(const char* name) {
  return MixedPrecision(parse_precision(name), {}, torch::kCPU);
}

TEST(TunableLayers, AreThoseThatAStepMultipliesWithTheirRows) {
  Model module;
  const MixedPrecision precision = precision_of("bf16-mixed");
  const auto layers = tunable_layers(training_step_on(module, batch_of(1)), precision);
  ASSERT_EQ(layers.size(), 3U * 4U + 1U);
  EXPECT_EQ(layers[0].name, "layers.0.attention.wq+wk+wv");
  EXPECT_EQ(layers[0].modules,
            (std::vector<std::string>{"layers.0.attention.wq", "layers.0.attention.wk",
                                      "layers.0.attention.wv"}));
  EXPECT_EQ(layers[0].rows, 4 * 32);
  EXPECT_EQ(layers[0].input, torch::kBFloat16);
  EXPECT_EQ(layers[0].multiply_adds(), 128 * 64 * (64 + 32 + 32));
  EXPECT_EQ(layers[3].name, "layers.0.feed_forward.w2");
  EXPECT_EQ(layers.back().name, "tok_embeddings");
  EXPECT_TRUE(layers.back().is_head);
}

TEST(TunableLayers, OfExpertsHaveTheRowsThatTheRouterGivesThem) {
  Model module(/*moe=*/true);
  const MixedPrecision precision = precision_of("bf16-mixed");
  std::int64_t routed = 0;
  for (const TunableLayer& layer : tunable_layers(training_step_on(module, batch_of(1)), precision))
    if (layer.name.starts_with("layers.0.feed_forward.experts.") && layer.name.ends_with(".w2"))
      routed += layer.rows;
  EXPECT_EQ(routed, 2 * 128) << "two experts a token";
}

TEST(TunableLayers, LeaveOutWhatIsKeptInFp32) {
  Model module;
  keep_fp32(module.network(), {R"(layers\.0\.)", "wk"});
  const MixedPrecision precision = precision_of("bf16-mixed");
  const auto layers = tunable_layers(training_step_on(module, batch_of(1)), precision);
  ASSERT_EQ(layers.size(), 2U * 4U + 1U);
  EXPECT_EQ(layers[0].name, "layers.1.attention.wq+wv");
}

TEST(LayerTimes, AreOfEachFormatAndMeasuredOnceForAShape) {
  Model module;
  MixedPrecision precision = precision_of("bf16-mixed");
  const auto layers = tunable_layers(training_step_on(module, batch_of(1)), precision);
  const std::vector<ComputeType> types{ComputeType::kBFloat16, ComputeType::kInt8,
                                       ComputeType::kFloat32};
  const auto times = layer_times(layers, types, precision, 2);
  ASSERT_EQ(times.size(), layers.size());
  for (const auto& of_layer : times) {
    ASSERT_EQ(of_layer.size(), types.size());
    for (const auto& [type, time] : of_layer) {
      EXPECT_GT(time.forward, 0);
      EXPECT_GT(time.backward, 0);
      EXPECT_DOUBLE_EQ(time.total(true), 2 * time.forward + time.backward);
    }
  }
  EXPECT_EQ(times[0].at(ComputeType::kInt8).forward, times[4].at(ComputeType::kInt8).forward);
  EXPECT_EQ(precision.layer_formats(), nullptr);
}

TEST(GradientError, WeighsEachParameterByItsSize) {
  const auto gradients = [](double a, double b) {
    StepGradients step;
    step.gradients = {torch::full({30}, a), Tensor(), torch::full({10}, b)};
    return step;
  };
  const GradientReference exact(gradients(2, 1));
  const GradientError error = exact.error_of(gradients(2.02, 0.5));
  EXPECT_NEAR(error.of_parameters[0], 0.01, 1e-6);
  EXPECT_EQ(error.of_parameters[1], 0);
  EXPECT_NEAR(error.of_parameters[2], 0.5, 1e-6);
  EXPECT_NEAR(error.total, std::sqrt((30 * 1e-4 + 10 * 0.25) / 40), 1e-6);
  EXPECT_TRUE(std::isinf(exact.error_of(gradients(INFINITY, 1)).total));
  StepGradients lost = gradients(2, 1);
  lost.loss = NAN;
  EXPECT_TRUE(std::isinf(exact.error_of(std::move(lost)).total));
}

TEST(WholeStep, FindsALossScaleAtWhichGradientsAreFinite) {
  Model module;
  const TrainingStep step = training_step_on(module, batch_of(1));
  const TrainingStep large{.network = step.network, .loss = [&](const MixedPrecision& precision) {
                             return step.loss(precision) * 100;
                           }};
  const auto precision = precision_for_step(large, parse_precision("16-mixed"), torch::kCPU, false);
  const StepGradients gradients = step_gradients(large, *precision);
  for (const Tensor& gradient : gradients.gradients)
    EXPECT_TRUE(gradient.isfinite().all().item<bool>());
  EXPECT_GT(precision->loss_scale().value(), 1);
  const GradientReference exact = exact_gradients(large, torch::kCPU, false);
  EXPECT_LT(exact.error_of(step_gradients(large, *precision)).total, 0.02)
      << "without the loss scale";
}

TEST(WholeStep, TellsTheNoiseOfABatchByAnother) {
  Model module;
  const TrainingStep step = training_step_on(module, batch_of(1));
  const GradientReference exact = exact_gradients(step, torch::kCPU, false);
  EXPECT_EQ(sampling_noise(exact, step, torch::kCPU, 1), 0);
  const TrainingStep other = training_step_on(module, batch_of(2));
  const double noise = sampling_noise(exact, other, torch::kCPU, 1);
  EXPECT_GT(noise, 0.1);
  EXPECT_DOUBLE_EQ(sampling_noise(exact, other, torch::kCPU, 4), noise / 2);
}

struct State {
  std::vector<Tensor> values, gradients;
};

State state_of(torch::nn::Module& network) {
  State state;
  for (const Tensor& parameter : network.parameters()) {
    state.values.push_back(parameter.detach().clone());
    state.gradients.push_back(parameter.grad());
  }
  return state;
}

/// A step whose layers are all faster in another format than the reference's.
TuneResult tuned(Model& module, const TuneOptions& options) {
  return tune_layers(training_step_on(module, batch_of(1)), training_step_on(module, batch_of(2)),
                     options);
}

TuneOptions from_fp8() { return {.precision = "fp8-mixed", .loss_increase = 0.05}; }

TEST(TuneLayers, ChoosesWhatIsFasterWithinItsBounds) {
  Model module;
  const State before = state_of(module.network());
  const TuneResult result = tuned(module, from_fp8());
  const State after = state_of(module.network());
  for (std::size_t i = 0; i < before.values.size(); ++i) {
    EXPECT_TRUE(before.values[i].equal(after.values[i]));
    EXPECT_FALSE(after.gradients[i].defined());
  }
  EXPECT_EQ(result.precision, "fp8-mixed");
  EXPECT_EQ(result.layers.size(), 13U);
  EXPECT_GT(result.reference.error, 0.01) << "fp8 against 32-true";
  ASSERT_FALSE(result.formats.empty()) << result.verdict;
  EXPECT_LE(result.chosen.error, result.error_bound);
  EXPECT_LE(std::abs(result.chosen.loss_change - result.reference.loss_change), 0.05);
  EXPECT_LT(result.chosen.seconds, result.reference.seconds);
  EXPECT_EQ(layer_types(module.network(), result.layer_precision, parse_precision("fp8-mixed")),
            result.formats);

  // What is reported of the choice is what a step with it has.
  const TrainingStep step = training_step_on(module, batch_of(1));
  MixedPrecision precision(parse_precision("fp8-mixed"), {}, torch::kCPU, {},
                           result.layer_precision);
  precision.convert_module(module.network());
  const GradientReference exact = exact_gradients(step, torch::kCPU, false);
  EXPECT_NEAR(exact.error_of(step_gradients(step, precision)).total, result.chosen.error,
              1e-3 * result.chosen.error);
}

TEST(TuneLayers, DrawTheLineFromTheReferenceToTheFastest) {
  Model module;
  const TuneResult result = tuned(module, from_fp8());
  ASSERT_FALSE(result.line.empty());
  for (std::size_t i = 1; i < result.line.size(); ++i) {
    EXPECT_GE(result.line[i].error_bound, result.line[i - 1].error_bound);
    EXPECT_LE(result.line[i].seconds, result.line[i - 1].seconds + 1e-12);
  }
  for (const TunePoint& point : result.line) {
    int layers = 0;
    for (const auto& [type, count] : point.modules_in) layers += count;
    EXPECT_EQ(layers, 3 * 7 + 1);
  }
  EXPECT_FALSE(result.corners.empty());
}

TEST(TuneLayers, KeepTheReferenceWhereTheLossMayNotMove) {
  Model module;
  TuneOptions options = from_fp8();
  options.loss_increase = 1e-12;
  const TuneResult result = tuned(module, options);
  EXPECT_TRUE(result.formats.empty());
  EXPECT_TRUE(result.layer_precision.empty());
  EXPECT_THAT(result.verdict, HasSubstr("fp8-mixed stays as it is"));
  EXPECT_EQ(result.chosen.error, result.reference.error);
}

TEST(TuneLayers, MeasureLayersOfOneRoleTogetherWhereTimeIsShort) {
  Model module;
  TuneOptions options = from_fp8();
  options.max_seconds = 1e-9;
  const TuneResult result = tuned(module, options);
  EXPECT_EQ(result.layers.size(), 5U);
  EXPECT_EQ(result.layers.front().name, "layers.*.attention.wq+wk+wv");
  EXPECT_EQ(result.layers.front().modules.size(), 9U);
  // The time was over before the first one.
  for (const TunedLayers& layers : result.layers) EXPECT_TRUE(layers.formats.empty());
  EXPECT_TRUE(result.formats.empty());
}

TEST(TuneLayers, RefuseAPrecisionThatIsNotMixed) {
  Model module;
  EXPECT_THAT(message_of<UserError>([&] { tuned(module, {.precision = "32-true"}); }),
              HasSubstr("lowered from a mixed precision, but precision is 32-true"));
}

TEST(TuneLayers, AddUpErrorsInSquares) {
  Model module;
  const TrainingStep step = training_step_on(module, batch_of(1));
  const GradientReference exact = exact_gradients(step, torch::kCPU, false);
  MixedPrecision precision = precision_of("bf16-mixed");
  FormatTrial trial(step, precision, exact);
  const MeasuredStep reference = trial.measure("reference", {});
  const double base = reference.error * reference.error;
  double sum = base;
  std::map<std::string, ComputeType> all;
  for (const TunableLayer& layer : tunable_layers(step, precision)) {
    std::map<std::string, ComputeType> one;
    for (const std::string& path : layer.modules) one[path] = all[path] = ComputeType::kInt8;
    const double error = trial.measure(layer.name, one).error;
    EXPECT_GT(error, 0.9 * reference.error);
    sum += std::max(0.0, error * error - base);
  }
  const double together = trial.measure("all", all).error;
  EXPECT_GT(together, 2 * reference.error);
  EXPECT_NEAR(std::sqrt(sum), together, 0.25 * together);
}

// ---- a whole precision

PrecisionChoice chosen(Model& module, const PrecisionChoiceOptions& options) {
  return choose_precision(training_step_on(module, batch_of(1)),
                          training_step_on(module, batch_of(2)), options);
}

TEST(ChoosePrecision, TakesTheOneThatPassesItsErrorCheck) {
  Model module;
  const State before = state_of(module.network());
  const std::vector<std::string> names{"32-true", "bf16-mixed", "fp8-mixed"};
  const PrecisionChoice strict = chosen(module, {.precisions = names, .error = 1e-9});
  EXPECT_EQ(strict.precision, "32-true");
  ASSERT_EQ(strict.trials.size(), 3U);
  EXPECT_EQ(strict.trials[0].error, 0);
  EXPECT_TRUE(strict.trials[0].passes);
  EXPECT_FALSE(strict.trials[1].passes);
  EXPECT_LT(strict.trials[1].error, strict.trials[2].error);
  EXPECT_THAT(strict.reason, HasSubstr("a step takes "));

  const PrecisionChoice free =
      chosen(module, {.precisions = names, .error = 10.0, .loss_increase = 10.0});
  for (const PrecisionTrial& trial : free.trials) EXPECT_TRUE(trial.passes);
  const auto of = [&](const std::string& name) {
    return *std::find_if(free.trials.begin(), free.trials.end(),
                         [&](const PrecisionTrial& trial) { return trial.precision == name; });
  };
  for (const PrecisionTrial& trial : free.trials)
    EXPECT_LE(of(free.precision).seconds, 1.05 * trial.seconds);
  for (const Tensor& parameter : module.network().parameters())
    EXPECT_EQ(parameter.scalar_type(), torch::kFloat);
  const State after = state_of(module.network());
  for (std::size_t i = 0; i < before.values.size(); ++i)
    EXPECT_TRUE(before.values[i].equal(after.values[i]));
}

TEST(ChoosePrecision, AllowsATenthOfTheBatchsNoise) {
  Model module;
  const PrecisionChoice choice = chosen(module, {.precisions = {"32-true"}});
  EXPECT_GT(choice.sampling_noise, 0.1);
  EXPECT_DOUBLE_EQ(choice.error_bound, 0.1 * choice.sampling_noise);
}

}  // namespace
}  // namespace halftone::tune_test
