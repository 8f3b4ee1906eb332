// SPDX-License-Identifier: Apache-2.0
// Where a profile says that the time of a step goes: sums, dtypes, reasons, casts, memory.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/nn/modules/linear.h>
#include <torch/nn/modules/normalization.h>
#include <torch/optim/adamw.h>
#include <torch/optim/sgd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "halftone/autocast/autocast.h"
#include "halftone/core/error.h"
#include "halftone/data/tensor_loader.h"
#include "halftone/diagnostics/profile/module_ranges_impl.h"
#include "halftone/diagnostics/profile/profile_tables.h"
#include "halftone/diagnostics/profile/profile_text.h"
#include "halftone/diagnostics/profile/step_changes.h"
#include "halftone/diagnostics/profile/step_profile.h"
#include "halftone/inspect/site.h"
#include "halftone/optim/adamw.h"
#include "halftone/precision/keep_fp32.h"
#include "halftone/pretrain/language_modeling.h"
#include "halftone/train/fit_loop.h"
#include "support/message_of.h"
#include "support/operations_in.h"
#include "support/small_step.h"

namespace halftone::profile_test {
namespace {

using nlohmann::json;
using testing::Each;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;
using torch::Tensor;
using Batch = TrainingModule<>::Batch;

/// Layers of LibTorch, and what autocast treats differently, one thing after the other.
struct Foreign : TrainingModule<> {
  Tensor training_step(const Batch& batch, std::int64_t /*index*/) override {
    Tensor x = norm(first(batch.data));
    x = torch::softmax(x, -1) * scale;
    x = kept(x);
    if (casts) x = x.to(torch::kHalf).to(torch::kFloat);
    const Tensor square = [&] {
      const Autocast off(torch::kCPU, {}, /*enabled=*/false);
      return at::mm(x.to(torch::kFloat).t(), scale);
    }();
    const Tensor wide = x.to(torch::kDouble).exp().mean().to(torch::kFloat);
    return at::mse_loss(last(x), batch.target) + square.mean() + wide;
  }
  std::vector<OptimizerSetup> configure_optimizers(const OptimizerContext& /*context*/) override {
    return {std::make_shared<torch::optim::AdamW>(parameters(), torch::optim::AdamWOptions(1e-2))};
  }

  bool casts = false;
  torch::nn::Linear first = register_module("first", torch::nn::Linear(32, 48));
  torch::nn::LayerNorm norm =
      register_module("norm", torch::nn::LayerNorm(torch::nn::LayerNormOptions({48})));
  torch::nn::Linear kept = register_module("kept", torch::nn::Linear(48, 48));
  torch::nn::Linear last = register_module("last", torch::nn::Linear(48, 16));
  Tensor scale = register_parameter("scale", torch::ones({24, 48}));
};

Batch foreign_batch() {
  torch::manual_seed(4);
  return {torch::randn({24, 32}), torch::randn({24, 16})};
}

struct ForeignStep {
  explicit ForeignStep(const std::string& name, bool casts = false)
      : precision(parse_precision(name), {}, torch::kCPU) {
    module.casts = casts;
    if (precision.policy().is_mixed()) keep_fp32(module, {"^kept$"});
    precision.convert_module(module);
    repeated = std::make_unique<RepeatedStep>(
        training_step_on(module, foreign_batch()), precision,
        Optimizers{module.configure_optimizers({}).front().optimizer});
  }
  StepProfile profile(ProfileOptions options = {}) {
    options.measures_peaks = false;
    return profile_step(*repeated, options);
  }

  Foreign module;
  MixedPrecision precision;
  std::unique_ptr<RepeatedStep> repeated;
};

const OperationCost* find_operation(const StepProfile& profile, const std::string& operation,
                                    const std::string& module, StepPhase phase) {
  const auto found = std::find_if(profile.operations.begin(), profile.operations.end(),
                                  [&](const OperationCost& one) {
                                    return one.operation == operation && one.module == module &&
                                           one.phase == phase && one.bytes > 0;
                                  });
  return found != profile.operations.end() ? &*found : nullptr;
}

std::string reason_of(const StepProfile& profile, const std::string& operation,
                      const std::string& module, StepPhase phase = StepPhase::kForward) {
  const OperationCost* const found = find_operation(profile, operation, module, phase);
  return found != nullptr ? found->fp32_reason : "no such operation";
}

double sum_of_self(const StepProfile& profile) {
  double sum = 0;
  for (const OperationCost& one : profile.operations) sum += one.self_s;
  return sum;
}

TEST(Profile, TimesAddUpToTheStep) {
  ForeignStep step("bf16-mixed");
  const StepProfile profile = step.profile({.steps = 3});
  ASSERT_EQ(profile.step_s.size(), 3U);
  ASSERT_EQ(profile.observed_s.size(), 3U);
  EXPECT_GT(profile.outside_s, 0);
  EXPECT_NEAR(sum_of_self(profile) + profile.outside_s, profile.recorded_s, 1e-9);
  EXPECT_NEAR(profile.forward_s + profile.backward_s + profile.update_s + profile.recompute_s,
              profile.recorded_s, 1e-9);
  const double observed =
      (profile.observed_s[0] + profile.observed_s[1] + profile.observed_s[2]) / 3;
  EXPECT_LE(profile.recorded_s + profile.watching_s, observed * 1.000001);
  EXPECT_GT(profile.watching_s, 0);
  for (const OperationCost& one : profile.operations) {
    EXPECT_GE(one.self_s, 0) << one.operation;
    EXPECT_GE(one.calls, 0) << one.operation;
  }
  EXPECT_TRUE(profile.stepped);

  const std::vector<ModuleCost> tree = by_module(profile, /*merges_places=*/false);
  EXPECT_EQ(tree.front().module, "");
  EXPECT_NEAR(tree.front().total_s, sum_of_self(profile), 1e-9);
  double below = tree.front().self_s;
  for (const ModuleCost& one : tree)
    if (one.depth == 1) below += one.total_s;
  EXPECT_NEAR(below, tree.front().total_s, 1e-9);
  double rows = 0;
  for (const OperationCost& one : by_operation(profile)) rows += one.self_s;
  EXPECT_NEAR(rows, sum_of_self(profile), 1e-9);
}

TEST(Profile, FindsWhoTakesTheTime) {
  struct Slow : Foreign {
    Tensor training_step(const Batch& batch, std::int64_t index) override {
      std::this_thread::sleep_for(std::chrono::milliseconds(30));  // in no operation
      return Foreign::training_step(batch, index);
    }
  } module;
  MixedPrecision precision(parse_precision("32-true"), {}, torch::kCPU);
  precision.convert_module(module);
  RepeatedStep step(training_step_on(module, foreign_batch()), precision,
                    {module.configure_optimizers({}).front().optimizer});
  const StepProfile profile = profile_step(step, {.steps = 2, .measures_peaks = false});
  EXPECT_GE(profile.outside_s, 0.03);
  EXPECT_GE(profile.forward_s, 0.03);
  EXPECT_GE(typical_step_s(profile), 0.03);
}

TEST(Profile, CountsDtypesUnderAutocast) {
  ForeignStep step("bf16-mixed");
  const StepProfile profile = step.profile();
  const OperationCost* const first =
      find_operation(profile, "aten::addmm", "first", StepPhase::kForward);
  ASSERT_NE(first, nullptr);
  EXPECT_EQ(first->inputs, "bf16");
  EXPECT_EQ(first->outputs, "bf16");
  EXPECT_EQ(first->calls, 1);
  EXPECT_EQ(first->flops, 2.0 * 24 * 32 * 48);
  EXPECT_EQ(first->bytes, 2.0 * (48 + 24 * 32 + 32 * 48 + 24 * 48));
  EXPECT_EQ(first->fp32_reason, "");
  ASSERT_EQ(first->matmuls.size(), 1U);
  EXPECT_EQ(to_string(first->matmuls[0]), "24 x 48 x 32 bf16");
  const auto named = [&](const std::string& name, double calls) {
    return std::any_of(profile.operations.begin(), profile.operations.end(),
                       [&](const OperationCost& one) {
                         return one.is_step_of_autograd && one.operation == name &&
                                one.module == "first" && one.calls == calls;
                       });
  };
  EXPECT_TRUE(named("AddmmBackward0", 1)) << "the engine's own step around it does not count again";
  const OperationCost* const gradient =
      find_operation(profile, "aten::mm", "first", StepPhase::kBackward);
  ASSERT_NE(gradient, nullptr);
  EXPECT_EQ(gradient->inputs, "bf16");
  // Without a gradient of the input: the weight's alone.
  EXPECT_EQ(gradient->flops, 2.0 * 24 * 32 * 48);
}

TEST(Profile, SaysWhyAnOperationRanInFp32) {
  ForeignStep step("bf16-mixed");
  const StepProfile profile = step.profile();
  EXPECT_EQ(reason_of(profile, "aten::mse_loss", ""), "autocast's fp32 list (aten::mse_loss)");
  EXPECT_EQ(reason_of(profile, "aten::mse_loss_backward", "", StepPhase::kBackward),
            "autocast's fp32 list (aten::mse_loss)");
  EXPECT_EQ(reason_of(profile, "aten::native_layer_norm", "norm"), "promotes: one operand is fp32");
  EXPECT_THAT(reason_of(profile, "aten::addmm", "kept"), HasSubstr("keep_fp32 marks 'kept."));
  EXPECT_THAT(reason_of(profile, "aten::mm", "kept", StepPhase::kBackward),
              HasSubstr("keep_fp32 marks 'kept."));
  EXPECT_EQ(reason_of(profile, "aten::exp", ""), "double: autocast never casts it");
  EXPECT_EQ(reason_of(profile, "aten::addmm", "first"), "");
  EXPECT_EQ(reason_of(profile, "aten::addmm", "last"), "");
  // Inside the scope that turns autocast off.
  const bool off = std::any_of(
      profile.operations.begin(), profile.operations.end(), [](const OperationCost& one) {
        return one.operation == "aten::mm" && one.fp32_reason == "autocast is off here";
      });
  EXPECT_TRUE(off);
  for (const OperationCost& one : profile.operations) {
    if (one.phase == StepPhase::kUpdate) {
      EXPECT_EQ(one.fp32_reason, "") << one.operation;
    }
    if (one.is_cast) {
      EXPECT_EQ(one.fp32_reason, "") << one.operation;
    }
  }
}

TEST(Profile, HasNoReasonsWherePrecisionIsNotMixed) {
  ForeignStep step("32-true");
  const StepProfile profile = step.profile();
  EXPECT_THAT(fp32_operations(profile), IsEmpty());
  EXPECT_THAT(to_text(profile), Not(HasSubstr("in fp32 under")));
}

TEST(Profile, FindsCastsThatWerePutIn) {
  ForeignStep plain("32-true"), casting("32-true", /*casts=*/true);
  const StepProfile without = plain.profile(), with = casting.profile();
  const auto casts_in = [](const StepProfile& profile, const std::string& inputs,
                           const std::string& outputs) {
    double calls = 0;
    for (const OperationCost& one : profile.operations)
      if (one.operation == "aten::copy_" && one.is_cast && one.inputs == inputs &&
          one.outputs == outputs)
        calls += one.calls;
    return calls;
  };
  EXPECT_EQ(casts_in(without, "fp32", "fp16"), 0);
  EXPECT_EQ(casts_in(with, "fp32", "fp16"), 2) << "forward, and of the gradient";
  EXPECT_EQ(casts_in(with, "fp16", "fp32"), 2);
  EXPECT_GT(cast_s(with), 0);
  const double moved = [&] {
    double bytes = 0;
    for (const OperationCost& one : with.operations)
      if (one.operation == "aten::copy_" && one.outputs == "fp16") bytes += one.bytes;
    return bytes;
  }();
  EXPECT_EQ(moved, 2 * (24 * 48) * (4 + 2));
}

TEST(Profile, FindsFp32InMemory) {
  ForeignStep step("32-true");
  const StepProfile profile = step.profile({.steps = 1});
  double parameters = 0;
  for (const Tensor& parameter : step.module.parameters())
    parameters += static_cast<double>(parameter.nbytes());
  const auto sum = [&](MemoryKind kind) {
    double bytes = 0;
    for (const Fp32Tensors& one : profile.fp32_tensors)
      if (one.kind == kind) bytes += one.bytes;
    return bytes;
  };
  EXPECT_EQ(sum(MemoryKind::kWeights), parameters);
  EXPECT_EQ(sum(MemoryKind::kGradients), parameters);
  EXPECT_EQ(sum(MemoryKind::kOptimizer), 2 * parameters);
  EXPECT_EQ(sum(MemoryKind::kActivations), profile.fp32_activation_bytes);
  // The results of first, of softmax (which is saved by softmax and the product) and of kept wait
  // for the backward pass; the double ones are no fp32.
  const auto activation = [&](const std::string& operation, const std::string& module) {
    for (const Fp32Tensors& one : profile.fp32_tensors)
      if (one.kind == MemoryKind::kActivations && one.operation == operation &&
          one.module == module)
        return one.bytes;
    return 0.0;
  };
  EXPECT_EQ(activation("aten::addmm", "first"), 24 * 48 * 4);
  EXPECT_EQ(activation("aten::softmax", ""), 24 * 48 * 4);
  EXPECT_EQ(activation("aten::addmm", "kept"), 24 * 48 * 4);
  EXPECT_GT(profile.activation_bytes, profile.fp32_activation_bytes);
  EXPECT_LT(profile.activation_bytes, 20 * 24 * 48 * 4);
}

TEST(Profile, LeavesWeightsAndRatesAlone) {
  ForeignStep step("bf16-mixed");
  std::vector<Tensor> before;
  for (const Tensor& parameter : step.module.parameters())
    before.push_back(parameter.detach().clone());
  const auto optimizer = step.repeated->optimizers().front();
  EXPECT_EQ(optimizer->param_groups()[0].options().get_lr(), 0.0);
  step.profile();
  const std::vector<Tensor> after = step.module.parameters();
  for (std::size_t i = 0; i < before.size(); ++i) EXPECT_TRUE(after[i].equal(before[i])) << i;
  step.repeated.reset();
  EXPECT_EQ(optimizer->param_groups()[0].options().get_lr(), 1e-2);
}

TEST(Profile, SaysWhenNoStepIsAnUpdate) {
  struct Overflowing : Foreign {
    Tensor training_step(const Batch& batch, std::int64_t index) override {
      return Foreign::training_step(batch, index) * 1e38 * 1e38;
    }
  } module;
  MixedPrecision precision(parse_precision("16-mixed"), {.init_scale = 4}, torch::kCPU);
  precision.convert_module(module);
  RepeatedStep step(training_step_on(module, foreign_batch()), precision,
                    {module.configure_optimizers({}).front().optimizer});
  const StepProfile profile = profile_step(step, {.steps = 1, .measures_peaks = false});
  EXPECT_FALSE(profile.stepped);
  EXPECT_THAT(to_text(profile), HasSubstr("gradients overflow at every loss scale"));
}

TEST(Profile, WritesATraceWhoseEventsNest) {
  ForeignStep step("bf16-mixed");
  const StepProfile profile = step.profile({.steps = 2, .keeps_calls = true});
  const json trace = json::parse(to_trace(profile));
  struct Event {
    double begin, end;
    std::string category, name;
  };
  constexpr double kRounding = 1e-3;  // microseconds
  std::vector<Event> open;
  std::map<std::string, double> sums;
  std::map<std::string, int> counts;
  for (const json& event : trace.at("traceEvents")) {
    if (event.at("ph") != "X") continue;
    const double begin = event.at("ts"), duration = event.at("dur");
    const std::string category = event.at("cat");
    EXPECT_GE(duration, 0);
    while (!open.empty() && open.back().end <= begin + kRounding / 2 &&
           open.back().end < begin + duration)
      open.pop_back();
    if (!open.empty()) {
      EXPECT_GE(begin, open.back().begin - kRounding) << event;
      EXPECT_LE(begin + duration, open.back().end + kRounding) << event << open.back().name;
    }
    open.push_back({begin, begin + duration, category, event.at("name")});
    sums[category == "step" || category == "module" ? category : "calls"] += duration;
    ++counts[category];
    if (event.at("name") == "aten::addmm") {
      EXPECT_THAT(event.at("args").at("shapes").get<std::string>(), HasSubstr("24x"));
    }
  }
  EXPECT_EQ(counts["step"], 2);
  EXPECT_NEAR(sums["step"], 2e6 * profile.recorded_s, 1.0);
  for (const char* phase : {"forward", "backward", "update"}) EXPECT_GT(counts[phase], 4) << phase;
  EXPECT_GT(counts["module"], 4);
  EXPECT_EQ(test::message_of<c10::Error>([&] { to_trace(StepProfile{}); }).empty(), false);
}

TEST(Profile, IsWrittenAsTextAndJson) {
  ForeignStep step("bf16-mixed");
  const StepProfile profile = profile_step(*step.repeated, {.steps = 2});
  EXPECT_GT(profile.peaks.bytes_per_s, 0);
  EXPECT_GT(profile.peaks.flops_per_s.at(torch::kBFloat16), 0);
  EXPECT_GT(profile.peaks.flops_per_s.at(torch::kFloat), 0);
  const std::string text = to_text(profile);
  for (const char* part : {"step  ", "casts", "aten::addmm", "kept", "fp32 in memory",
                           "Tensor Cores, by shape and dtype alone", "keep_fp32 marks"})
    EXPECT_THAT(text, HasSubstr(part));
  std::size_t begin = 0, lines = 0;
  for (std::size_t end = text.find('\n'); end != std::string::npos; end = text.find('\n', begin)) {
    EXPECT_LE(end - begin, 100U) << text.substr(begin, end - begin);
    begin = end + 1;
    ++lines;
  }
  EXPECT_LT(lines, 90U);
  EXPECT_GT(to_text(profile, {.all = true}).size(), text.size());

  const json document = json::parse(to_json(profile));
  EXPECT_EQ(document.at("precision"), "bf16-mixed");
  double self = 0;
  for (const json& row : document.at("operations")) self += row.at("self_s").get<double>();
  EXPECT_NEAR(self + document.at("outside_s").get<double>(),
              document.at("recorded_s").get<double>(), 1e-9);
  EXPECT_EQ(document.at("modules").at(0).at("module"), "");
  EXPECT_EQ(document.at("tensor_cores").at(0).at("eligible").is_boolean(), true);
}

/// Operations that compute: what a training step is made of, however it is watched over.
std::vector<std::string> computing(std::vector<std::string> names) {
  std::erase_if(names, [](const std::string& name) {
    return !name.starts_with("halftone::") && name != "aten::mm" && name != "aten::embedding";
  });
  std::sort(names.begin(), names.end());
  return names;
}

struct Recipe {
  std::string precision;
  std::string memory = "standard";
  std::int64_t micro_batches = 1;
};

class SameAsTraining : public testing::TestWithParam<Recipe> {};

TEST_P(SameAsTraining, TakesTheSameOperations) {
  const Recipe& recipe = GetParam();
  const PrecisionPolicy policy = parse_precision(recipe.precision);
  const MemoryPolicy memory = memory_policy({.memory = recipe.memory}, policy);
  struct Text : TrainingModule<> {
    Tensor training_step(const Batch& batch, std::int64_t /*index*/) override {
      return model->loss(batch.data, batch.target, torch::ones({2, 32})).total();
    }
    std::vector<OptimizerSetup> configure_optimizers(const OptimizerContext& context) override {
      std::vector<std::pair<std::string, Tensor>> named;
      for (const auto& item : model->named_parameters())
        named.emplace_back(item.key(), item.value());
      return {std::make_shared<AdamW>(std::move(named), context.adamw())};
    }
    torch::nn::Module& network() override { return *model; }
    CausalLM model = test::small_model(/*moe=*/false, 0.0);
  };
  torch::manual_seed(8);
  const Tensor ids = torch::randint(256, {2 * recipe.micro_batches, 33});
  const Batch all{ids.narrow(1, 0, 32).contiguous(), ids.narrow(1, 1, 32).contiguous()};
  Text trained, profiled;

  TensorLoader loader(all, {.batch_size = 2, .shuffle = false});
  ModuleTrainingTask task(trained, loader);
  MixedPrecision training_precision(policy, {.init_scale = 1024}, torch::kCPU, memory);
  FitLoop loop(task, training_precision,
               {.limits = {.max_steps = 9},
                .accumulate = recipe.micro_batches,
                .loss_average = LossAverage::kMicroBatches,
                .clip = {.value = 1.0}});
  loop.step();
  const std::vector<std::string> training = test::operations_in([&] { loop.step(); });

  MixedPrecision precision(policy, {.init_scale = 1024}, torch::kCPU, memory);
  precision.convert_module(*profiled.model);
  RepeatedStep step(
      training_step_on(profiled, Batch{all.data.narrow(0, 0, 2), all.target.narrow(0, 0, 2)}),
      precision, {profiled.configure_optimizers({.memory = memory}).front().optimizer},
      {.micro_batches = recipe.micro_batches, .clip = {.value = 1.0}});
  step.take();
  const std::vector<std::string> repeated = test::operations_in([&] { step.take(); });
  EXPECT_EQ(computing(repeated), computing(training));
}

INSTANTIATE_TEST_SUITE_P(Profile, SameAsTraining,
                         testing::Values(Recipe{"32-true"}, Recipe{"bf16-mixed"},
                                         Recipe{"16-mixed"}, Recipe{"int8-mixed"},
                                         Recipe{"bf16-mixed", "lean"},
                                         Recipe{"bf16-mixed", "leanest"}, Recipe{"bf16-true"},
                                         Recipe{"bf16-mixed", "standard", 3},
                                         Recipe{"int8-mixed", "standard", 2}));

struct Tiny : public test::SmallStep {
  explicit Tiny(const std::string& name, const MemoryPolicy& policy = {}, bool moe = false)
      : SmallStep({name, "blas,native", moe}, policy) {}
  TrainingStep step() {
    return {.network = model.get(), .loss = [this](const MixedPrecision& how) {
              const auto region = how.forward_context(3, 5);
              return model
                  ->loss(text.narrow(1, 0, 64).contiguous(), text.narrow(1, 1, 64).contiguous(),
                         torch::ones({3, 64}))
                  .total();
            }};
  }
  std::shared_ptr<torch::optim::Optimizer> optimizer(const AdamWOptions& options = {}) {
    std::vector<std::pair<std::string, Tensor>> named;
    for (const auto& item : model->named_parameters()) named.emplace_back(item.key(), item.value());
    return std::make_shared<AdamW>(std::move(named), options);
  }
};

// Width 128, two layers, 4 heads of which 2 have keys, 3 x 64 tokens of 256.
TEST(Profile, CountsTheFlopsOfAModelInEveryPrecision) {
  const double rows = 3 * 64, dim = 128;
  const ModelConfig config = test::small_config(/*moe=*/false);
  const double hidden = static_cast<double>(hidden_dim_of(config));
  const double layer = 2 * rows * dim * (dim + 2 * 64 + dim + 3 * hidden);
  const double pairs = 3 * 4 * (64 * 65 / 2);
  const double attention = 7 * (2 * pairs * 32);  // two matmuls forward, five backward
  const double expected = 3 * 2 * layer + 2 * attention + 3 * (2 * rows * dim * 256);
  for (const char* precision : {"32-true", "bf16-mixed", "16-mixed", "int8-mixed", "bf16-true"}) {
    Tiny tiny(precision);
    RepeatedStep step(tiny.step(), tiny.precision, {tiny.optimizer()});
    const StepProfile profile = profile_step(step, {.steps = 1, .measures_peaks = false});
    EXPECT_EQ(flops_of(profile), expected) << precision;
    EXPECT_THAT(to_text(profile), HasSubstr("layers.*")) << precision;
  }
}

TEST(Profile, KnowsOurContractsAndRouters) {
  Tiny tiny("bf16-mixed", {}, /*moe=*/true);
  RepeatedStep step(tiny.step(), tiny.precision, {tiny.optimizer()});
  const StepProfile profile = profile_step(step, {.steps = 1, .measures_peaks = false});
  std::map<std::string, int> reasons;
  for (const Fp32Cost& one : fp32_operations(profile)) {
    ++reasons[one.reason];
    if (one.operation.starts_with("halftone::rms_norm")) {
      EXPECT_EQ(one.reason, "norms keep statistics and the residual stream in fp32");
    }
    if (one.operation.starts_with("halftone::cross_entropy")) {
      EXPECT_EQ(one.reason, "losses are computed in fp32");
    }
  }
  EXPECT_GT(reasons["routers always compute in fp32"], 0);
  EXPECT_GT(reasons["norms keep statistics and the residual stream in fp32"], 0);
  EXPECT_GT(reasons["losses are computed in fp32"], 0);
}

TEST(Profile, KnowsThatUpcastMatmulsComputeInFp32) {
  Tiny tiny("bf16-mixed");
  set_cpu_gemm_config(parse_cpu_gemm_config("blas,upcast"));
  RepeatedStep step(tiny.step(), tiny.precision, {tiny.optimizer()});
  const StepProfile profile = profile_step(step, {.steps = 1, .measures_peaks = false});
  double upcast = 0;
  for (const OperationCost& one : profile.operations)
    if (one.fp32_reason == "this machine multiplies bf16 upcast to fp32 (--kernels.matmul)")
      upcast += one.flops;
  EXPECT_GT(upcast, 0.8 * flops_of(profile));
  for (const ShapeUse& use : matmul_shapes(profile)) {
    EXPECT_EQ(use.shape.dtype, torch::kBFloat16) << "what a GPU would multiply";
  }
}

TEST(Profile, TellsRecomputationFromTheBackwardPass) {
  const MemoryPolicy memory = memory_policy({.recompute = "blocks"}, parse_precision("bf16-mixed"));
  Tiny recomputing("bf16-mixed", memory), keeping("bf16-mixed");
  RepeatedStep again(recomputing.step(), recomputing.precision, {recomputing.optimizer()});
  RepeatedStep kept(keeping.step(), keeping.precision, {keeping.optimizer()});
  const ProfileOptions options{.steps = 1, .measures_peaks = false};
  const StepProfile with = profile_step(again, options), without = profile_step(kept, options);
  EXPECT_GT(with.recompute_s, 0);
  EXPECT_EQ(without.recompute_s, 0);
  EXPECT_LT(with.activation_bytes, without.activation_bytes);
  const auto forward_flops = [](const StepProfile& profile, StepPhase phase, std::size_t layers) {
    double flops = 0;
    for (const OperationCost& one : profile.operations)
      if (one.phase == phase && one.module.starts_with("layers.")) flops += one.flops;
    return flops / static_cast<double>(layers);
  };
  EXPECT_EQ(forward_flops(with, StepPhase::kRecompute, 2),
            forward_flops(without, StepPhase::kForward, 2));
}

TEST(Profile, FindsTheUpdatesOfReleasedGradients) {
  const MemoryPolicy memory = memory_policy({.memory = "leanest"}, parse_precision("bf16-mixed"));
  Tiny tiny("bf16-mixed", memory);
  RepeatedStep step(tiny.step(), tiny.precision, {tiny.optimizer(memory.adamw())},
                    {.clip = {.value = 1.0}});
  const StepProfile profile = profile_step(step, {.steps = 1, .measures_peaks = false});
  double updates = 0;
  for (const OperationCost& one : profile.operations)
    if (one.operation == "halftone::adamw_") {
      EXPECT_EQ(one.phase, StepPhase::kUpdate);
      updates += one.calls;
    }
  EXPECT_GT(updates, 10);
  EXPECT_NEAR(profile.forward_s + profile.backward_s + profile.update_s + profile.recompute_s,
              profile.recorded_s, 1e-9);
}

TEST(Profile, PutsPlacesOfAListTogether) {
  EXPECT_EQ(without_places("layers.3.attention"), "layers.*.attention");
  EXPECT_EQ(without_places("a.0.b.12"), "a.*.b.*");
  EXPECT_EQ(without_places("norm2"), "norm2");
  EXPECT_EQ(without_places(""), "");
}

TEST(Profile, FindsTheModulesAroundAModule) {
  using testing::ElementsAre;
  EXPECT_THAT(module_levels("layers.12.attention.wq"),
              ElementsAre("layers.12", "layers.12.attention", "layers.12.attention.wq"));
  EXPECT_THAT(module_levels("norm"), ElementsAre("norm"));
  EXPECT_THAT(module_levels("a.0"), ElementsAre("a.0"));
  EXPECT_THAT(module_levels(""), IsEmpty());
}

TEST(StepChanges, AreMeasuredInTurnsAndSorted) {
  std::vector<std::string> taken;
  const auto sleeping = [&](const std::string& name, int milliseconds) {
    return RunnableStep{.take = [&taken, name, milliseconds] {
      taken.push_back(name);
      std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds));
    }};
  };
  const RunnableStep now = sleeping("now", 12);
  int settings = 0;
  const std::vector<StepChange> changes = {
      {.change = "same", .tokens = 100, .make = [&] { return sleeping("same", 12); }},
      {.change = "impossible",
       .tokens = 100,
       .make = []() -> RunnableStep { throw UserError("no room"); }},
      {.change = "faster",
       .caveat = "coarse",
       .tokens = 100,
       .make = [&] { return sleeping("faster", 4); }},
      {.change = "setting", .tokens = 300, .make = [&] {
         RunnableStep step = sleeping("setting", 12);
         step.enter = [&] { ++settings; };
         step.leave = [&] { --settings; };
         return step;
       }}};
  const std::vector<MeasuredChange> measured =
      measure_changes(now, 100, changes, {.pairs = 3, .least = 3});
  ASSERT_EQ(measured.size(), 4U);
  EXPECT_EQ(settings, 0);
  EXPECT_THAT(measured.back().failure, HasSubstr("no room"));
  EXPECT_FALSE(measured.back().is_real(0.03));
  for (const MeasuredChange& one : measured) {
    if (one.change == "faster" || one.change == "setting") {
      EXPECT_NEAR(one.gain, 3.0, 1.0) << one.change;
      EXPECT_TRUE(one.is_real(0.03)) << one.change;
      EXPECT_EQ(one.pairs, 3);
    }
    if (one.change == "same") {
      EXPECT_NEAR(one.gain, 1.0, 0.3);
    }
  }
  EXPECT_GE(measured[0].gain, measured[1].gain);
  EXPECT_EQ(taken[0], "same") << "warms up";
  EXPECT_EQ(taken[2], "now");
  EXPECT_EQ(taken[3], "same");
  const std::vector<MeasuredChange> none =
      measure_changes(now, 100, changes, {.pairs = 2, .least = 2, .seconds_in_all = 0});
  EXPECT_THAT(none.front().failure, HasSubstr("no time was left"));
}

}  // namespace
}  // namespace halftone::profile_test
