// SPDX-License-Identifier: Apache-2.0
// Every wrong use of the scaler, with the sentence that it must meet and the words that mend it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/optim/lbfgs.h>
#include <torch/optim/sgd.h>

#include <cmath>
#include <functional>
#include <limits>

#include "halftone/core/error.h"
#include "halftone/core/log.h"
#include "halftone/optim/adamw.h"
#include "halftone/precision/grad_scaler.h"

namespace halftone::grad_scaler_errors_test {
namespace {

using testing::HasSubstr;

constexpr double kInf = std::numeric_limits<double>::infinity();

// A scaler and an optimizer with a gradient, in mid-training.
struct Bench {
  explicit Bench(torch::ScalarType dtype = torch::kFloat)
      : parameter(torch::zeros({2}, dtype).requires_grad_()),
        optimizer({parameter}, torch::optim::SGDOptions(1.0)),
        fused({torch::zeros({2}).requires_grad_()}) {
    parameter.mutable_grad() = torch::ones({2}, dtype);
  }
  void scale() { scaler.scale(torch::ones({})); }
  torch::Tensor parameter;
  torch::optim::SGD optimizer;
  AdamW fused;
  GradScaler scaler;
};

template <class Error>
std::string message_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const c10::Error& error) {
    return std::is_same_v<Error, c10::Error> ? error.what_without_backtrace() : "a c10::Error";
  } catch (const UserError& error) {
    return std::is_same_v<Error, UserError> ? error.what() : "a UserError";
  }
  return "no error";
}

struct Misuse {
  const char* name;
  std::function<void(Bench&)> call;
  const char* sentence;  // torch's own, where torch has one
  const char* remedy;
};

const std::vector<Misuse>& misuses() {
  static const std::vector<Misuse> table = {
      {"a step that was done under a scale",
       [](Bench& b) {
         b.scale();
         b.scaler.note_step(b.fused, b.fused.gradient_stats());
       },
       "whether it is to be skipped is known too late", "a scale that is fixed at 1"},
      {"unscale_ before scale", [](Bench& b) { b.scaler.unscale_(b.optimizer); },
       "Attempted unscale_ but _scale is None.  This may indicate your script did not use "
       "scaler.scale(loss or outputs) earlier in the iteration",
       "call scaler.scale(loss).backward() first"},
      {"step before scale", [](Bench& b) { b.scaler.step(b.optimizer); },
       "Attempted step but _scale is None.", "call scaler.scale(loss).backward() first"},
      {"fused step before scale", [](Bench& b) { b.scaler.step(b.fused); },
       "Attempted step but _scale is None.", "call scaler.scale(loss).backward() first"},
      {"update before scale", [](Bench& b) { b.scaler.update(); },
       "Attempted update but _scale is None.", "call scaler.scale(loss).backward() first"},
      {"unscale_ twice",
       [](Bench& b) {
         b.scale();
         b.scaler.unscale_(b.optimizer);
         b.scaler.unscale_(b.optimizer);
       },
       "unscale_() has already been called on this optimizer since the last update().",
       "Call it once per step"},
      {"unscale_ after step",
       [](Bench& b) {
         b.scale();
         b.scaler.step(b.optimizer);
         b.scaler.unscale_(b.optimizer);
       },
       "unscale_() is being called after step().", "Call it before step(), or call update() first"},
      {"unscale_ after a fused step",
       [](Bench& b) {
         b.scale();
         b.scaler.step(b.fused);
         b.scaler.unscale_(b.fused);
       },
       "unscale_() is being called after step().", "Call it before step(), or call update() first"},
      {"step twice",
       [](Bench& b) {
         b.scale();
         b.scaler.step(b.optimizer);
         b.scaler.step(b.optimizer);
       },
       "step() has already been called since the last update().",
       "Call update() at the end of each iteration"},
      {"fused step twice",
       [](Bench& b) {
         b.scale();
         b.scaler.step(b.fused);
         b.scaler.step_async(b.fused);
       },
       "step() has already been called since the last update().",
       "Call update() at the end of each iteration"},
      {"update with nothing recorded",
       [](Bench& b) {
         b.scale();
         b.scaler.update();
       },
       "No inf checks were recorded prior to update.", "Call step() or unscale_() before it"},
      {"update twice",
       [](Bench& b) {
         b.scale();
         b.scaler.step(b.optimizer);
         b.scaler.update();
         b.scaler.update();
       },
       "No inf checks were recorded prior to update.", "Call step() or unscale_() before it"},
      {"step without any gradient",
       [](Bench& b) {
         b.scale();
         b.parameter.mutable_grad() = torch::Tensor();
         b.scaler.step(b.optimizer);
       },
       "No inf checks were recorded for this optimizer.", "call backward() first"},
      {"closure",
       [](Bench& b) {
         b.scale();
         b.scaler.step(b.optimizer, [] { return torch::Tensor(); });
       },
       "Closure use is not currently supported if GradScaler is enabled.",
       "Compute the loss and call backward() before step()"},
      {"LBFGS, which can't do without a closure",
       [](Bench& b) {
         torch::optim::LBFGS lbfgs({b.parameter});
         b.scale();
         b.scaler.step(lbfgs, [] { return torch::ones({}); });
       },
       "Closure use is not currently supported if GradScaler is enabled.",
       "LBFGS needs one and can't be trained with a loss scale"},
      {"state_dict after unscale_",
       [](Bench& b) {
         b.scale();
         b.scaler.unscale_(b.optimizer);
         b.scaler.state_dict();
       },
       "state_dict() was called in the middle of an iteration",
       "call it before unscale_() and step(), or after update()"},
      {"state_dict after step",
       [](Bench& b) {
         b.scale();
         b.scaler.step(b.fused);
         b.scaler.state_dict();
       },
       "state_dict() was called in the middle of an iteration",
       "call it before unscale_() and step(), or after update()"},
      {"load_state_dict after unscale_",
       [](Bench& b) {
         b.scale();
         b.scaler.unscale_(b.optimizer);
         b.scaler.load_state_dict(GradScaler().state_dict());
       },
       "load_state_dict() was called in the middle of an iteration",
       "call it before unscale_() and step(), or after update()"},
      {"new scale before scale", [](Bench& b) { b.scaler.update(2.0); },
       "Attempted update but _scale is None.", "call scaler.scale(loss).backward() first"},
      {"new scale of several elements",
       [](Bench& b) {
         b.scale();
         b.scaler.update(torch::ones({2}));
       },
       "new_scale should be a float or a 1-element floating tensor with requires_grad=False.",
       "Pass new_scale.detach().sum(), or a double"},
      {"new scale with a gradient",
       [](Bench& b) {
         b.scale();
         b.scaler.update(torch::ones({1}, torch::requires_grad()));
       },
       "new_scale should be a float or a 1-element floating tensor with requires_grad=False.",
       "Pass new_scale.detach().sum(), or a double"},
      {"new scale that is an integer tensor",
       [](Bench& b) {
         b.scale();
         b.scaler.update(torch::ones({1}, torch::kLong));
       },
       "new_scale should be a float or a 1-element floating tensor with requires_grad=False.",
       "Pass new_scale.detach().sum(), or a double"},
      {"new scale above the limit",
       [](Bench& b) {
         b.scale();
         b.scaler.update(1e30);
       },
       "the scale 1e+30 lies outside min_scale..max_scale", "choose another, or move the limits"},
      {"new scale nan",
       [](Bench& b) {
         b.scale();
         b.scaler.update(std::nan(""));
       },
       "the scale nan lies outside min_scale..max_scale", "choose another, or move the limits"},
      {"negative clip_norm",
       [](Bench& b) {
         b.scale();
         b.scaler.step(b.fused, {.clip_norm = -1});
       },
       "expected clip_norm >= 0, got -1", ""},
      {"growth factor 1", [](Bench& b) { b.scaler.set_growth_factor(1.0); },
       "The growth factor must be > 1.0", "got 1"},
      {"backoff factor 1", [](Bench& b) { b.scaler.set_backoff_factor(1.0); },
       "The backoff factor must be < 1.0", "got 1"},
      {"growth interval 0", [](Bench& b) { b.scaler.set_growth_interval(0); },
       "expected a growth interval >= 1", "got 0"},
  };
  return table;
}

TEST(GradScalerErrors, EachSaysWhatToDo) {
  for (const Misuse& misuse : misuses()) {
    Bench bench;
    const std::string message = message_of<c10::Error>([&] { misuse.call(bench); });
    EXPECT_THAT(message, HasSubstr("[grad_scaler] ")) << misuse.name;
    EXPECT_THAT(message, HasSubstr(misuse.sentence)) << misuse.name;
    EXPECT_THAT(message, HasSubstr(misuse.remedy)) << misuse.name;
  }
}

// A misuse leaves the scaler as it was: the iteration can be done right after it.
TEST(GradScalerErrors, NothingIsLostByThem) {
  for (const Misuse& misuse : misuses()) {
    Bench bench;
    message_of<c10::Error>([&] { misuse.call(bench); });
    bench.parameter.mutable_grad() = torch::ones({2});
    bench.scale();
    bench.scaler.update(65536.0);
    EXPECT_TRUE(bench.scaler.step(bench.optimizer).stepped) << misuse.name;
    bench.scaler.update();
    EXPECT_EQ(bench.scaler.get_scale(), 65536.0) << misuse.name;
    EXPECT_EQ(bench.scaler.state_dict().get<double>("scale"), 65536.0) << misuse.name;
  }
}

TEST(GradScalerErrors, Fp16GradientsAreRefusedAndLeftAsTheyAre) {
  Bench bench(torch::kHalf);
  bench.scale();
  const std::string message =
      message_of<c10::Error>([&] { bench.scaler.unscale_(bench.optimizer); });
  EXPECT_THAT(message, HasSubstr("Attempting to unscale FP16 gradients."));
  EXPECT_THAT(message, HasSubstr("Keep the parameters in fp32 and use autocast"));
  EXPECT_TRUE(bench.parameter.grad().eq(1).all().item<bool>());
  EXPECT_NO_THROW(bench.scaler.state_dict());
}

TEST(GradScalerErrors, ImpossibleOptionsAreRefused) {
  const std::vector<std::pair<GradScalerOptions, const char*>> table = {
      {{.growth_factor = 1.0}, "The growth factor must be > 1.0"},
      {{.growth_factor = std::nan("")}, "The growth factor must be > 1.0"},
      {{.backoff_factor = 1.0}, "The backoff factor must be < 1.0"},
      {{.backoff_factor = 0.0}, "The backoff factor must be < 1.0 and > 0"},
      {{.growth_interval = 0}, "expected a growth interval >= 1"},
      {{.hysteresis = 0}, "expected hysteresis >= 1"},
      {{.init_scale = 0.5}, "the scale 0.5 lies outside min_scale..max_scale"},
      {{.init_scale = 1e9}, "lies outside min_scale..max_scale"},
      {{.init_scale = kInf}, "lies outside min_scale..max_scale"},
      {{.min_scale = 0.0}, "lies outside min_scale..max_scale"},
      {{.max_skips_at_floor = -1}, "expected max_skips_at_floor >= 0"},
      {{.adaptive = true, .adaptive_interval = 0}, "expected an interval >= 1"},
      {{.adaptive = true, .adaptive_margin = 0}, "expected a margin of 1..40"},
  };
  for (const auto& [options, sentence] : table)
    EXPECT_THAT(message_of<c10::Error>([&] { GradScaler{options}; }), HasSubstr(sentence));
  EXPECT_NO_THROW(GradScaler({.growth_factor = 0.0, .enabled = false}));
}

TEST(GradScalerErrors, StatesThatNoScalerSavesAreRefused) {
  GradScaler off({.enabled = false});
  GradScaler scaler;
  EXPECT_THAT(message_of<UserError>([&] { scaler.load_state_dict(off.state_dict()); }),
              HasSubstr("The source state dict is empty, possibly because it was saved from a "
                        "disabled instance of GradScaler. Load a state that was saved while loss "
                        "scaling was on, or start anew"));
  const StateDict good = scaler.state_dict();
  for (const char* key :
       {"scale", "growth_factor", "backoff_factor", "growth_interval", "_growth_tracker"}) {
    StateDict bad = good;
    bad.values.erase(key);
    EXPECT_THAT(message_of<UserError>([&] { scaler.load_state_dict(bad); }), HasSubstr(key));
    bad.values[key] = std::string("text");
    EXPECT_THAT(message_of<UserError>([&] { scaler.load_state_dict(bad); }), HasSubstr(key));
  }
  const std::vector<std::pair<const char*, StateDict::Value>> table = {
      {"_skips_at_floor", std::int64_t{1} << 62},
      {"_growth_tracker", std::int64_t{1} << 31},
      {"growth_interval", std::int64_t{1} << 40},
      {"scale", 0.0},
      {"scale", -1.0},
      {"scale", kInf},
      {"scale", std::nan("")},
      {"growth_factor", 1.0},
      {"backoff_factor", 1.0},
      {"min_scale", 0.0},
      {"max_scale", 0.5},
      {"hysteresis", std::int64_t{0}},
      {"growth_interval", std::int64_t{0}},
      {"_growth_tracker", std::int64_t{-1}},
      {"_hysteresis_tracker", std::int64_t{-1}},
      {"_skips_at_floor", std::int64_t{-1}},
  };
  for (const auto& [key, value] : table) {
    StateDict bad = good;
    bad.values[key] = value;
    EXPECT_THAT(message_of<UserError>([&] { scaler.load_state_dict(bad); }),
                testing::AllOf(HasSubstr("cannot go on with the saved scaler: scale "),
                               HasSubstr("; start with a new scaler")))
        << key;
  }
  EXPECT_EQ(scaler.state_dict().values, good.values);  // still the old one
}

TEST(GradScalerErrors, ASavedScaleBeyondTheLimitsIsKeptAndSaid) {
  std::string said;
  set_log_sink([&](LogLevel, const std::string& message) { said = message; });
  Bench bench;
  StateDict state = bench.scaler.state_dict();
  state.values["scale"] = 0.25;
  state.values.erase("min_scale");  // torch has none
  bench.scaler.load_state_dict(state);
  set_log_sink(nullptr);
  EXPECT_THAT(said, HasSubstr("the saved loss scale 0.25 lies outside min_scale..max_scale"));
  EXPECT_EQ(bench.scaler.get_scale(), 0.25);
  bench.scale();
  bench.parameter.mutable_grad().fill_(kInf);
  EXPECT_FALSE(bench.scaler.step(bench.optimizer).stepped);
  bench.scaler.update();
  EXPECT_EQ(bench.scaler.get_scale(), 0.25);  // not lowered further, not jumped up
}

}  // namespace
}  // namespace halftone::grad_scaler_errors_test
