// SPDX-License-Identifier: Apache-2.0
#include "halftone/optim/adamw.h"

#include <gtest/gtest.h>
#include <torch/optim/adamw.h>
#include <torch/utils.h>

#include <cmath>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>

#include "halftone/core/error.h"
#include "support/paths.h"

namespace halftone::adamw_test {
namespace {

using NamedTensors = std::vector<std::pair<std::string, torch::Tensor>>;

// As in make_adamw_golden.py: multiples of 2^-10.
torch::Tensor formula(std::int64_t tensor, std::int64_t step,
                      const std::vector<std::int64_t>& shape) {
  const std::int64_t numel = c10::multiply_integers(shape);
  torch::Tensor values =
      torch::arange(numel, torch::kLong) * 7919 + step * 104729 + tensor * 1299709;
  return ((values.remainder(2048) - 1024).to(torch::kFloat) / 1024).reshape(shape);
}

std::vector<torch::Tensor> parameters_of(const std::vector<std::vector<std::int64_t>>& shapes,
                                         torch::ScalarType dtype = torch::kFloat) {
  std::vector<torch::Tensor> parameters;
  for (std::size_t t = 0; t < shapes.size(); ++t)
    parameters.push_back(
        formula(static_cast<std::int64_t>(t), 0, shapes[t]).to(dtype).requires_grad_());
  return parameters;
}

const std::vector<std::vector<std::int64_t>> kShapes = {{3, 5}, {1}, {0}, {17}, {8, 2, 3}, {131}};

// Gradients of `step` added to .grad, as autograd would.
void add_gradients(const std::vector<torch::Tensor>& parameters, std::int64_t step,
                   double scale = 1) {
  for (std::size_t t = 0; t < parameters.size(); ++t) {
    const torch::Tensor gradient =
        formula(static_cast<std::int64_t>(t), step, parameters[t].sizes().vec()) * scale;
    parameters[t].mutable_grad().add_(gradient.to(parameters[t].scalar_type()));
  }
}

torch::Tensor flat(const nlohmann::json& list) {
  return torch::tensor(list.get<std::vector<double>>(), torch::kFloat);
}

TEST(AdamW, FollowsTorchOverManySteps) {
  std::ifstream file(std::string(test::kGoldenDir) + "/adamw.json");
  const auto golden = nlohmann::json::parse(file);
  const auto shapes = golden["shapes"].get<std::vector<std::vector<std::int64_t>>>();
  for (const auto& item : golden["cases"]) {
    const auto& o = item["options"];
    const std::vector<torch::Tensor> parameters = parameters_of(shapes);
    AdamW optimizer(parameters, {.lr = o["lr"],
                                 .beta1 = o["beta1"],
                                 .beta2 = o["beta2"],
                                 .eps = o["eps"],
                                 .weight_decay = o["weight_decay"]});
    for (std::int64_t step = 1; step <= golden["steps"].get<std::int64_t>(); ++step) {
      add_gradients(parameters, step);
      optimizer.step();
      optimizer.zero_grad();
    }
    const StateDict state = optimizer.state_dict();
    for (std::size_t t = 0; t < shapes.size(); ++t) {
      const std::string name = optimizer.parameter_names()[t];
      const auto close = [&](const torch::Tensor& ours, const char* key) {
        const torch::Tensor theirs = flat(item[key][t]);
        return torch::allclose(ours.detach().flatten(), theirs, 2e-6, 1e-7);
      };
      EXPECT_TRUE(close(parameters[t], "weights"));
      EXPECT_TRUE(close(state.tensor(name + ".exp_avg"), "exp_avg"));
      EXPECT_TRUE(close(state.tensor(name + ".exp_avg_sq"), "exp_avg_sq"));
    }
  }
}

TEST(AdamW, FollowsTheFrontendsOwnAdamW) {
  const auto ours = parameters_of(kShapes);
  const auto theirs = parameters_of(kShapes);
  AdamW optimizer(ours, {.lr = 0.01});
  torch::optim::AdamW reference(theirs, torch::optim::AdamWOptions(0.01));
  for (std::int64_t step = 1; step <= 10; ++step) {
    add_gradients(ours, step);
    for (std::size_t t = 0; t < theirs.size(); ++t)
      theirs[t].mutable_grad() = ours[t].grad().clone();
    optimizer.step();
    reference.step();
    optimizer.zero_grad();
  }
  for (std::size_t t = 0; t < ours.size(); ++t)
    EXPECT_TRUE(torch::allclose(ours[t], theirs[t], 1e-6, 1e-7));
}

TEST(AdamW, MovesParametersIntoAlignedViewsAndKeepsTheirValues) {
  const auto parameters = parameters_of(kShapes);
  const AdamW optimizer(parameters);
  for (std::size_t t = 0; t < parameters.size(); ++t) {
    EXPECT_TRUE(torch::equal(parameters[t], formula(static_cast<std::int64_t>(t), 0, kShapes[t])));
    EXPECT_TRUE(parameters[t].is_leaf() && parameters[t].requires_grad());
    EXPECT_EQ(parameters[t].grad().sizes(), parameters[t].sizes());
    if (parameters[t].numel() == 0) continue;
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(parameters[t].data_ptr()) % 64, 0U);
    EXPECT_TRUE(parameters[t].is_alias_of(parameters[0]));
  }
}

TEST(AdamW, AutogradAddsIntoTheBuffer) {
  torch::Tensor weight = torch::ones({3}, torch::requires_grad());
  AdamW optimizer({weight});
  const void* place = weight.grad().data_ptr();
  (weight * 2).sum().backward();
  (weight * 3).sum().backward();
  EXPECT_EQ(weight.grad().data_ptr(), place);
  EXPECT_TRUE(torch::equal(weight.grad(), torch::full({3}, 5.0F)));
  optimizer.zero_grad();
  EXPECT_EQ(weight.grad().data_ptr(), place);
  EXPECT_EQ(weight.grad().count_nonzero().item<std::int64_t>(), 0);
}

TEST(AdamW, FusedStepIsTheStepWithScaledGradients) {
  const auto plain = parameters_of(kShapes);
  const auto fused = parameters_of(kShapes);
  AdamW a(plain, {.lr = 0.02});
  AdamW b(fused, {.lr = 0.02});
  for (std::int64_t step = 1; step <= 5; ++step) {
    add_gradients(plain, step);
    add_gradients(fused, step, 1024.0);
    a.step();
    b.step_scaled(torch::tensor(1.0 / 1024), torch::zeros({}));
    a.zero_grad();
    b.zero_grad();
  }
  for (std::size_t t = 0; t < plain.size(); ++t) EXPECT_TRUE(torch::equal(plain[t], fused[t]));
}

TEST(AdamW, SkippedStepLeavesEverything) {
  const auto parameters = parameters_of(kShapes);
  AdamW optimizer(parameters);
  add_gradients(parameters, 1);
  optimizer.step();
  const StateDict before = optimizer.state_dict();
  const torch::Tensor moment = before.tensor("group 0, parameter 0.exp_avg").clone();
  const torch::Tensor weight = parameters[0].detach().clone();
  optimizer.step_scaled(torch::ones({}), torch::ones({}));
  EXPECT_EQ(optimizer.step_count(), 1);
  EXPECT_TRUE(torch::equal(parameters[0], weight));
  EXPECT_TRUE(torch::equal(optimizer.state_dict().tensor("group 0, parameter 0.exp_avg"), moment));
}

TEST(AdamW, StatsNameWhatOverflowed) {
  const auto parameters = parameters_of(kShapes);
  const AdamW optimizer(parameters);
  add_gradients(parameters, 1);
  double expected = 0.0;
  for (const torch::Tensor& p : parameters)
    expected += p.grad().to(torch::kDouble).square().sum().item<double>();
  GradientStats stats = optimizer.gradient_stats();
  EXPECT_NEAR(stats.norm_squared.item<double>(), expected, 1e-12 * expected);
  EXPECT_EQ(stats.non_finite.sum().item<std::int64_t>(), 0);
  parameters[3].mutable_grad()[5] = std::numeric_limits<float>::infinity();
  parameters[5].mutable_grad().fill_(NAN);
  stats = optimizer.gradient_stats();
  EXPECT_TRUE(torch::equal(stats.non_finite, torch::tensor({0, 0, 0, 1, 0, 131}, torch::kLong)));
}

TEST(AdamW, MixesDtypesInBuffersOfTheirOwn) {
  std::vector<torch::Tensor> parameters = {
      torch::ones({5}, torch::requires_grad()),
      torch::ones({7}, torch::dtype(torch::kBFloat16).requires_grad(true)),
      torch::ones({9}, torch::dtype(torch::kHalf).requires_grad(true)),
      torch::ones({3}, torch::requires_grad())};
  AdamW optimizer(parameters, {.lr = 0.5, .weight_decay = 0.0});
  for (std::size_t t = 0; t < parameters.size(); ++t)
    parameters[t].mutable_grad().fill_(static_cast<double>(t + 1));
  parameters[2].mutable_grad()[0] = NAN;
  const GradientStats stats = optimizer.gradient_stats();
  EXPECT_TRUE(torch::equal(stats.non_finite, torch::tensor({0, 0, 1, 0}, torch::kLong)));
  parameters[2].mutable_grad().fill_(3.0);
  EXPECT_DOUBLE_EQ(optimizer.gradient_stats().norm_squared.item<double>(), 5 + 28 + 81 + 48);
  optimizer.step();
  // The first step moves every weight by lr.
  for (const torch::Tensor& p : parameters)
    EXPECT_NEAR(p.to(torch::kFloat).mean().item<float>(), 0.5F, 1e-3);
}

TEST(AdamW, TiedParametersCountOnce) {
  torch::Tensor weight = torch::ones({4}, torch::requires_grad());
  torch::Tensor twin = weight.detach().requires_grad_();  // another variable, the same memory
  AdamW optimizer(NamedTensors{{"head", weight}, {"again", weight}, {"embedding", twin}},
                  {.lr = 0.1, .weight_decay = 0.0});
  EXPECT_EQ(optimizer.parameter_names(), std::vector<std::string>{"head"});
  (weight * 2 + twin * 3).sum().backward();
  EXPECT_TRUE(torch::equal(weight.grad(), torch::full({4}, 5.0F)));
  optimizer.step();
  EXPECT_TRUE(torch::equal(weight, twin));
  EXPECT_NEAR(weight[0].item<float>(), 0.9F, 1e-6);

  // The base class's zero_grad() takes the gradients away; both twins then get one of their own.
  static_cast<torch::optim::Optimizer&>(optimizer).zero_grad();
  (weight * 2 + twin * 3).sum().backward();
  EXPECT_DOUBLE_EQ(optimizer.gradient_stats().norm_squared.item<double>(), 4 * 25.0);
  EXPECT_TRUE(weight.grad().is_same(twin.grad()));
}

TEST(AdamW, TakesReplacedGradientsAndSkipsUndefinedOnes) {
  const auto parameters = parameters_of({{6}, {4}, {2}});
  AdamW optimizer(parameters, {.lr = 0.1, .weight_decay = 0.5});
  static_cast<torch::optim::Optimizer&>(optimizer).zero_grad();
  parameters[0].mutable_grad() = torch::ones({6});
  parameters[2].mutable_grad() = torch::full({2}, 3.0);
  const torch::Tensor skipped = parameters[1].detach().clone();
  const torch::Tensor before = parameters[0].detach().clone();
  EXPECT_DOUBLE_EQ(optimizer.gradient_stats().norm_squared.item<double>(), 6 + 18);
  optimizer.step();
  EXPECT_TRUE(torch::equal(parameters[1], skipped));
  EXPECT_TRUE(torch::allclose(parameters[0], before * 0.95 - 0.1, 0.0, 1e-6));
  EXPECT_FALSE(parameters[1].grad().defined());
  EXPECT_TRUE(parameters[0].grad().is_alias_of(parameters[2].grad()));  // back in the buffer
}

TEST(AdamW, TakesSparseGradients) {
  const auto parameters = parameters_of({{5}});
  AdamW optimizer(parameters);
  const torch::Tensor indices = torch::tensor({2, 2}, torch::kLong).reshape({1, 2});
  parameters[0].mutable_grad() =
      torch::sparse_coo_tensor(indices, torch::tensor({1.0F, 2.0F}), {5});
  EXPECT_DOUBLE_EQ(optimizer.gradient_stats().norm_squared.item<double>(), 9.0);
}

TEST(AdamW, RefusesParametersThatWereMovedAway) {
  const auto parameters = parameters_of({{6}});
  AdamW optimizer(parameters);
  torch::Tensor parameter = parameters[0];
  parameter.set_data(torch::zeros({6}));
  EXPECT_THROW(optimizer.step(), c10::Error);
  AdamW other(parameters_of({{6}}));
  other.add_parameters({torch::zeros({2}, torch::requires_grad())});
  EXPECT_THROW(other.step(), c10::Error);
}

TEST(AdamW, RefusesBadParametersAndOptions) {
  const torch::Tensor base = torch::zeros({8});
  const torch::Tensor left = base.narrow(0, 0, 5).detach().requires_grad_();
  const torch::Tensor right = base.narrow(0, 3, 5).detach().requires_grad_();
  EXPECT_THROW(AdamW({left, right}), c10::Error);
  EXPECT_THROW(AdamW({torch::zeros({2}, torch::dtype(torch::kDouble).requires_grad(true))}),
               c10::Error);
  const auto fine = parameters_of({{2}});
  EXPECT_THROW(AdamW(fine, {.lr = -1}), c10::Error);
  EXPECT_THROW(AdamW(fine, {.beta2 = 1.0}), c10::Error);
  EXPECT_THROW(AdamW(fine, {.weight_decay = NAN}), c10::Error);
}

TEST(AdamW, ClosureAndLearningRateWorkAsInTorch) {
  torch::Tensor weight = torch::ones({1}, torch::requires_grad());
  AdamW optimizer({weight}, {.lr = 0.1, .weight_decay = 0.0});
  optimizer.param_groups()[0].options().set_lr(0.25);
  EXPECT_EQ(optimizer.lr(), 0.25);
  const torch::NoGradGuard no_grad;
  const torch::Tensor loss = optimizer.step([&] {
    torch::Tensor value = weight.sum();
    value.backward();
    return value;
  });
  EXPECT_EQ(loss.item<float>(), 1.0F);
  EXPECT_NEAR(weight.item<float>(), 0.75F, 1e-6);
}

class AdamWRecipe : public testing::TestWithParam<std::pair<torch::ScalarType, bool>> {};

// Save after some steps, go on; load into a fresh optimizer, go on: the same bits.
TEST_P(AdamWRecipe, ResumesExactly) {
  const auto [dtype, stochastic] = GetParam();
  const AdamWOptions options{.lr = 0.01, .stochastic_rounding = stochastic, .seed = 7};
  const auto run = [&](AdamW& optimizer, const std::vector<torch::Tensor>& parameters,
                       std::int64_t from, std::int64_t to) {
    for (std::int64_t step = from; step < to; ++step) {
      add_gradients(parameters, step);
      optimizer.step();
      optimizer.zero_grad();
    }
  };
  const auto parameters = parameters_of(kShapes, dtype);
  AdamW optimizer(parameters, options);
  run(optimizer, parameters, 0, 5);
  StateDict saved = optimizer.state_dict();
  for (auto& [name, tensor] : saved.tensors) tensor = tensor.clone();
  std::vector<torch::Tensor> copies;
  for (const torch::Tensor& p : parameters) copies.push_back(p.detach().clone().requires_grad_());
  run(optimizer, parameters, 5, 9);

  AdamWOptions fresh_options = options;
  fresh_options.lr = 0.5;
  fresh_options.seed = 99;
  AdamW resumed(copies, fresh_options);
  resumed.load_state_dict(saved);
  EXPECT_EQ(resumed.step_count(), 5);
  EXPECT_EQ(resumed.lr(), 0.01);
  run(resumed, copies, 5, 9);
  for (std::size_t t = 0; t < copies.size(); ++t)
    EXPECT_TRUE(torch::equal(parameters[t], copies[t]));
}

INSTANTIATE_TEST_SUITE_P(Recipes, AdamWRecipe,
                         testing::Values(std::pair{torch::kFloat, false},
                                         std::pair{torch::kBFloat16, true},
                                         std::pair{torch::kBFloat16, false},
                                         std::pair{torch::kHalf, false}));

TEST(AdamW, StochasticRoundingTrainsWhereNearestStandsStill) {
  // Updates of a quarter of a bfloat16 step: to nearest they vanish.
  const auto train = [](bool stochastic) {
    torch::Tensor weight = torch::ones({4096}, torch::dtype(torch::kBFloat16).requires_grad(true));
    AdamW optimizer({weight},
                    {.lr = 0.0078125 / 8, .weight_decay = 0.0, .stochastic_rounding = stochastic});
    for (int step = 0; step < 64; ++step) {
      weight.mutable_grad().fill_(-1.0);
      optimizer.step();
    }
    return weight.detach().to(torch::kDouble).mean().item<double>();
  };
  EXPECT_EQ(train(false), 1.0);
  EXPECT_NEAR(train(true), 1.0 + 64 * 0.0078125 / 8, 0.002);
}

TEST(AdamW, LoadNamesWhatIsMissingAndChangesNothing) {
  const auto parameters = parameters_of({{6}, {4}});
  AdamW optimizer(parameters);
  add_gradients(parameters, 1);
  optimizer.step();
  StateDict state = optimizer.state_dict();
  for (auto& [name, tensor] : state.tensors) tensor = tensor.clone().zero_();
  StateDict missing = state;
  missing.tensors.erase("group 0, parameter 1.exp_avg_sq");
  StateDict reshaped = state;
  reshaped.tensors["group 0, parameter 1.exp_avg"] = torch::zeros({5});
  for (const StateDict& bad : {missing, reshaped}) {
    try {
      optimizer.load_state_dict(bad);
      FAIL() << "accepted";
    } catch (const UserError& error) {
      EXPECT_NE(std::string(error.what()).find("group 0, parameter 1.exp_avg"), std::string::npos);
    }
    EXPECT_GT(
        optimizer.state_dict().tensor("group 0, parameter 0.exp_avg").abs().max().item<float>(), 0);
  }
  state.values.erase("step");
  EXPECT_THROW(optimizer.load_state_dict(state), UserError);
}

}  // namespace
}  // namespace halftone::adamw_test
