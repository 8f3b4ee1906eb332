// SPDX-License-Identifier: Apache-2.0
// Random training runs that torch.amp.GradScaler made (tests/golden/make_grad_scaler_traces.py),
// made again by ours: scale, tracker, skipped or not and parameters after every step.
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/optim/adam.h>
#include <torch/optim/adamw.h>
#include <torch/optim/sgd.h>

#include <fstream>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>

#include "halftone/optim/adamw.h"
#include "halftone/optim/clip.h"
#include "halftone/precision/grad_scaler.h"
#include "support/paths.h"

namespace halftone::grad_scaler_replay_test {
namespace {

using nlohmann::json;
using torch::optim::Optimizer;

constexpr std::array<std::int64_t, 2> kSizes = {3, 2};  // of each optimizer's parameters
constexpr double kTolerance = 1e-6;

const json& golden() {
  static const json loaded = [] {
    std::ifstream file(std::string(test::kGoldenDir) + "/grad_scaler_traces.json");
    return json::parse(file);
  }();
  return loaded;
}

// The script's counter: number `index` is a multiple of 1/2048 in [-1, 1].
float value(std::uint64_t index) {
  auto x = static_cast<std::uint32_t>(index * 2654435761U + 12345U);
  x = (x ^ (x >> 15U)) * 2246822519U;
  return (static_cast<float>((x >> 16U) % 4097U) - 2048.0F) / 2048.0F;
}

float bad_value(const std::string& name) {
  if (name == "nan") return std::numeric_limits<float>::quiet_NaN();
  const float inf = std::numeric_limits<float>::infinity();
  return name == "inf" ? inf : -inf;
}

std::vector<torch::Tensor> make_parameters(std::size_t optimizer) {
  std::vector<torch::Tensor> parameters;
  for (std::size_t k = 0; k < kSizes.size(); ++k) {
    std::vector<float> start;
    for (std::int64_t i = 0; i < kSizes[k]; ++i)
      start.push_back(value(1000 + 10 * optimizer + 5 * k + static_cast<std::uint64_t>(i)));
    parameters.push_back(torch::tensor(start).requires_grad_());
  }
  return parameters;
}

template <class Torch, class Options>
std::unique_ptr<Optimizer> in_two_groups(const std::vector<torch::Tensor>& parameters,
                                         const json& rates, const Options& defaults) {
  std::vector<torch::optim::OptimizerParamGroup> groups;
  for (std::size_t k = 0; k < parameters.size(); ++k) {
    auto options = std::make_unique<Options>(defaults);
    options->lr(rates[k]);
    groups.emplace_back(std::vector{parameters[k]}, std::move(options));
  }
  return std::make_unique<Torch>(std::move(groups), defaults);
}

// One optimizer of a trace with the knobs that belong to it.
struct Trained {
  Trained(const json& spec, std::size_t index, bool fused_adamw)
      : unscale(spec["unscale"]), clip(spec["clip"]), parameters(make_parameters(index)) {
    const std::string kind = spec["kind"];
    const json& rates = spec["lr"];
    if (kind == "SGD") {
      torch::optim::SGDOptions options(0.1);
      options.momentum(spec["momentum"]);
      optimizer = in_two_groups<torch::optim::SGD>(parameters, rates, options);
    } else if (kind == "Adam") {
      optimizer =
          in_two_groups<torch::optim::Adam>(parameters, rates, torch::optim::AdamOptions(0.1));
    } else if (!fused_adamw) {
      optimizer =
          in_two_groups<torch::optim::AdamW>(parameters, rates, torch::optim::AdamWOptions(0.1));
    } else {
      auto ours = std::make_unique<AdamW>(parameters, AdamWOptions{.lr = rates[0]});
      fused = ours.get();
      optimizer = std::move(ours);
    }
  }
  bool step(GradScaler& scaler) const {
    if (fused != nullptr) {
      if (unscale) scaler.unscale_(*fused);
      return scaler.step(*fused, {.clip_norm = clip}).stepped;
    }
    if (unscale || clip > 0) scaler.unscale_(*optimizer);
    if (clip > 0) clip_grad_norm_(parameters, clip);
    return scaler.step(*optimizer).stepped;
  }
  bool unscale;
  double clip;
  std::vector<torch::Tensor> parameters;
  std::unique_ptr<Optimizer> optimizer;
  AdamW* fused = nullptr;
};

torch::Tensor loss_of(const std::vector<torch::Tensor>& parameters, const std::vector<float>& x,
                      double weight) {
  torch::Tensor loss = torch::zeros({});
  std::int64_t at = 0;
  for (const torch::Tensor& p : parameters) {
    const torch::Tensor factors = torch::tensor(x).narrow(0, at, p.numel());
    loss = loss + (factors * p).sum() + 0.5 * weight * (p * p).sum();
    at += p.numel();
  }
  return loss;
}

class Replay {
 public:
  Replay(const json& trace, bool fused_adamw)
      : trace_(trace),
        scaler_({.init_scale = trace["init_scale"],
                 .growth_factor = trace["growth_factor"],
                 .backoff_factor = trace["backoff_factor"],
                 .growth_interval = trace["growth_interval"],
                 .min_scale = 1e-30,
                 .max_scale = std::numeric_limits<double>::infinity(),
                 .max_skips_at_floor = 0}) {
    for (std::size_t o = 0; o < trace["optimizers"].size(); ++o) {
      trained_.emplace_back(trace["optimizers"][o], o, fused_adamw);
      for (const torch::Tensor& p : trained_.back().parameters) all_.push_back(p);
    }
  }

  void run() {
    for (const json& step : trace_["steps"]) {
      for (Trained& t : trained_) t.optimizer->zero_grad();
      for (int micro = 0; micro < trace_["accumulate"].get<int>(); ++micro)
        backward(micro == 0 && step.contains("bad") ? step["bad"] : json());
      std::vector<int> stepped;
      for (Trained& t : trained_) stepped.push_back(t.step(scaler_) ? 1 : 0);
      end(step);
      compare(step["out"], stepped);
    }
  }

 private:
  void backward(const json& bad) {
    const auto count = static_cast<std::size_t>(trained_.size() * (kSizes[0] + kSizes[1]));
    for (int l = 0; l < trace_["losses"].get<int>(); ++l) {
      std::vector<float> x;
      for (std::size_t i = 0; i < count; ++i) x.push_back(value(counter_++));
      if (!bad.is_null()) x[bad[0]] = bad_value(bad[1]);
      torch::Tensor loss = loss_of(all_, x, 0.5 + l) / trace_["accumulate"].get<int>();
      if (trace_["penalty"]) {
        const auto gradients =
            torch::autograd::grad({scaler_.scale(loss)}, all_, {}, /*retain_graph=*/true,
                                  /*create_graph=*/true);
        const double inverse = 1.0 / scaler_.get_scale();
        torch::Tensor penalty = torch::zeros({});
        for (const torch::Tensor& g : gradients) penalty = penalty + (g * inverse).square().sum();
        loss = loss + 0.125 * penalty;
      }
      scaler_.scale(loss).backward();
    }
  }

  void end(const json& step) {
    if (step.contains("growth_factor")) scaler_.set_growth_factor(step["growth_factor"]);
    if (step.contains("backoff_factor")) scaler_.set_backoff_factor(step["backoff_factor"]);
    if (step.contains("new_scale")) {
      scaler_.update(step["new_scale"].get<double>());
    } else {
      scaler_.update();
    }
  }

  void compare(const json& out, const std::vector<int>& stepped) const {
    ASSERT_EQ(scaler_.get_scale(), out[0].get<double>());
    ASSERT_EQ(scaler_.growth_tracker(), out[1].get<std::int64_t>());
    ASSERT_EQ(stepped, out[2].get<std::vector<int>>());
    std::vector<torch::Tensor> flat;
    for (const torch::Tensor& p : all_) flat.push_back(p.detach());
    const torch::Tensor expected = torch::tensor(out[3].get<std::vector<float>>());
    ASSERT_TRUE(torch::allclose(torch::cat(flat), expected, kTolerance, kTolerance))
        << (torch::cat(flat) - expected) << "\n"
        << expected;
  }

  const json& trace_;
  GradScaler scaler_;
  std::vector<Trained> trained_;
  std::vector<torch::Tensor> all_;
  std::uint64_t counter_ = 0;
};

class GradScalerReplay : public testing::TestWithParam<bool> {};

TEST_P(GradScalerReplay, FollowsTorchThroughEveryTrace) {
  const json& traces = golden()["traces"];
  ASSERT_GE(traces.size(), 200U);
  for (std::size_t i = 0; i < traces.size(); ++i) {
    SCOPED_TRACE("trace " + std::to_string(i));
    Replay(traces[i], GetParam()).run();
    if (HasFatalFailure()) return;
  }
}

INSTANTIATE_TEST_SUITE_P(AdamW, GradScalerReplay, testing::Values(false, true),
                         [](const auto& tested) { return tested.param ? "Fused" : "Torch"; });

TEST(GradScalerReplay, TracesHoldEveryKindOfEvent) {
  std::map<std::string, int> seen;
  for (const json& trace : golden()["traces"]) {
    seen["two optimizers"] += trace["optimizers"].size() == 2 ? 1 : 0;
    seen["accumulation"] += trace["accumulate"] > 1 ? 1 : 0;
    seen["two losses"] += trace["losses"] == 2 ? 1 : 0;
    seen["penalty"] += trace["penalty"].get<bool>() ? 1 : 0;
    for (const json& optimizer : trace["optimizers"]) {
      ++seen[optimizer["kind"]];
      seen["clipping"] += optimizer["clip"] > 0 ? 1 : 0;
    }
    for (const json& step : trace["steps"]) {
      seen["new scale"] += step.contains("new_scale") ? 1 : 0;
      for (const int stepped : step["out"][2]) ++seen[stepped != 0 ? "step" : "skip"];
    }
  }
  for (const char* event : {"two optimizers", "accumulation", "two losses", "penalty", "SGD",
                            "Adam", "AdamW", "clipping", "new scale", "step", "skip"})
    EXPECT_GE(seen[event], 20) << event;
}

StateDict to_state(const json& saved) {
  StateDict state;
  for (const auto& [key, entry] : saved.items()) {
    if (entry.is_number_integer()) {
      state.values[key] = entry.get<std::int64_t>();
    } else {
      state.values[key] = entry.get<double>();
    }
  }
  return state;
}

TEST(GradScalerReplay, TakesTorchsStateAndGivesItBack) {
  const json& torchs = golden()["state"];
  GradScaler scaler({.hysteresis = 3, .min_scale = 0.0625, .max_scale = 1048576.0});
  scaler.load_state_dict(to_state(torchs));
  const StateDict ours = scaler.state_dict();
  for (const auto& [key, entry] : torchs.items())
    EXPECT_EQ(ours.get<double>(key) /* integers too */, entry.get<double>()) << key;
  // What torch does not know keeps the values it had.
  EXPECT_EQ(scaler.options().hysteresis, 3);
  EXPECT_EQ(scaler.options().min_scale, 0.0625);
  EXPECT_EQ(scaler.options().max_scale, 1048576.0);
}

TEST(GradScalerReplay, TorchTakesOurState) {
  // The script has loaded these keys into torch, and found torch's own there.
  const json& given = golden()["reloaded"]["given"];
  EXPECT_EQ(golden()["reloaded"]["held"], golden()["state"]);
  std::vector<std::string> expected;
  for (const auto& [key, entry] : given.items()) expected.push_back(key);
  std::vector<std::string> keys;
  for (const auto& [key, entry] : GradScaler().state_dict().values) keys.push_back(key);
  EXPECT_EQ(keys, expected);  // both in the order of the names
}

}  // namespace
}  // namespace halftone::grad_scaler_replay_test
