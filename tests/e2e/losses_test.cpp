// SPDX-License-Identifier: Apache-2.0
// Ten optimizer steps of the whole trainer, from tokens on disk to metrics, against PyTorch's
// (tests/golden/make_minimind_golden.py): the same weights, batches and recipe.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <memory>
#include <sstream>

#include "halftone/data/token_file.h"
#include "halftone/models/file_names.h"
#include "halftone/models/parameter_names.h"
#include "halftone/pretrain/hugging_face_config.h"
#include "halftone/pretrain/language_modeling.h"
#include "halftone/pretrain/peft_adapter.h"
#include "halftone/system/processor.h"
#include "halftone/train/trainer.h"
#include "support/golden_file.h"
#include "support/golden_model.h"
#include "support/reference_scope.h"
#include "support/temp_folder.h"

namespace halftone::losses_test {
namespace {

// As in the script that made the goldens.
constexpr std::int64_t kSteps = 10;
constexpr std::int64_t kAccumulate = 2;
constexpr double kLr = 2e-3;

struct Tolerance {
  double loss;
  double relative_grad_norm;
};

/// The golden's rows as samples of a token file; padding (id 0) is what the loader adds back.
TokenizedData write_tokens(const torch::Tensor& ids, std::int64_t vocab_size,
                           const std::filesystem::path& path) {
  TokenFileWriter writer(path, vocab_size, /*key=*/1);
  const torch::Tensor rows = ids.flatten(0, 1);  // (samples, L)
  for (std::int64_t i = 0; i < rows.size(0); ++i) {
    std::vector<std::int32_t> sample;
    for (std::int64_t t = 0; t < rows.size(1); ++t) {
      const auto id = rows[i][t].item<std::int32_t>();
      if (id != 0) sample.push_back(id);
    }
    writer.begin_sample();
    writer.add(sample, sample.size());
  }
  writer.finish();
  return {.tokens = std::make_shared<TokenFile>(path), .pad_id = 0};
}

struct StepCollector : Callback {
  void on_step_end(Trainer& /*trainer*/, const StepMetrics& metrics) override {
    steps.push_back(metrics);
  }
  std::vector<StepMetrics> steps;
};

/// A small Llama or Qwen of transformers, with the adapter that PEFT is about to train.
CausalLM adapted_model(const std::string& name, const test::GoldenFile& golden) {
  const test::GoldenFile base = test::read_golden("families/" + name + ".safetensors");
  const test::TempFolder folder;
  test::write_text(folder / "config.json", base.config.dump());
  CausalLM model(read_hugging_face_config(folder / "config.json"));
  load_parameters(model, test::part_of(base, "weights."), "golden");
  model->add_adapters(
      read_adapter(std::filesystem::path(test::kGoldenDir) / "lora" / name, model->config()).lora);
  const StateDict start =
      to_v2_names(without_wrappers(test::part_of(golden, "start."), "golden"), model->config());
  const torch::NoGradGuard no_grad;
  for (const auto& item : model->named_parameters())
    if (item.value().requires_grad()) item.value().copy_(start.tensors.at(item.key()));
  return model;
}

std::vector<StepMetrics> train_adapter(const std::string& name, const test::GoldenFile& golden,
                                       const std::string& precision) {
  const test::TempFolder folder;
  CausalLM model = adapted_model(name, golden);
  const torch::Tensor& ids = golden.tensors.at("ids");
  TokenLoader loader(
      write_tokens(ids, model->config().vocab_size, folder / "tokens"),
      {.batch_size = ids.size(1), .seq_len = ids.size(2), .pack = false, .shuffle = false});
  LanguageModeling module(std::move(model), {.adamw = {.lr = 1e-2, .weight_decay = 0.01},
                                             .schedule = {.kind = Schedule::kConstant}});
  const auto steps = std::make_shared<StepCollector>();
  Trainer trainer({.max_steps = kSteps,
                   .precision = precision,
                   .accelerator = "cpu",
                   .gradient_clip_val = 1.0,
                   .callbacks = {steps}});
  trainer.fit(module, loader);
  return steps->steps;
}

/// Adapters, against the library PEFT's (tests/golden/make_lora_golden.py).
void expect_pefts_steps(const std::string& name, const std::string& precision,
                        const Tolerance& tolerance) {
  const test::GoldenFile golden = test::read_golden("lora/" + name + ".safetensors");
  const auto expected = [&](const char* what) { return golden.tensors.at(precision + "." + what); };
  const std::vector<StepMetrics> steps = train_adapter(name, golden, precision);
  ASSERT_EQ(steps.size(), kSteps);
  for (std::int64_t i = 0; i < kSteps; ++i) {
    const StepMetrics& step = steps[static_cast<std::size_t>(i)];
    const double grad_norm = expected("grad_norms")[i].item<double>();
    EXPECT_NEAR(step.loss, expected("losses")[i].item<double>(), tolerance.loss)
        << name << ", step " << i;
    EXPECT_NEAR(*step.grad_norm, grad_norm, tolerance.relative_grad_norm * grad_norm)
        << name << ", step " << i;
  }
}

/// How far a step's loss and gradient norm are from those of fp32 at most.
struct Gap {
  double loss = 0;
  double relative_grad_norm = 0;

  void widen(double one_loss, double wanted_loss, double one_norm, double wanted_norm) {
    loss = std::max(loss, std::abs(one_loss - wanted_loss));
    relative_grad_norm =
        std::max(relative_grad_norm, std::abs(one_norm - wanted_norm) / wanted_norm);
  }
};

/// Where rounding differs, so does what ten steps make of it: this bounds its size by PyTorch's.
void expect_pefts_gap(const std::string& name) {
  const test::GoldenFile golden = test::read_golden("lora/" + name + ".safetensors");
  const auto at = [&](const char* what, std::int64_t step) {
    return golden.tensors.at(what)[step].item<double>();
  };
  const std::vector<StepMetrics> steps = train_adapter(name, golden, "bf16-mixed");
  ASSERT_EQ(steps.size(), kSteps);
  Gap ours, pefts;
  for (std::int64_t i = 0; i < kSteps; ++i) {
    const StepMetrics& step = steps[static_cast<std::size_t>(i)];
    const double loss = at("32-true.losses", i), norm = at("32-true.grad_norms", i);
    ours.widen(step.loss, loss, *step.grad_norm, norm);
    pefts.widen(at("bf16-mixed.losses", i), loss, at("bf16-mixed.grad_norms", i), norm);
  }
  EXPECT_LT(ours.loss, 2 * pefts.loss) << name;
  EXPECT_LT(ours.relative_grad_norm, 2 * pefts.relative_grad_norm) << name;
  EXPECT_GT(ours.loss, 0.1 * pefts.loss) << name << ": nothing was rounded";
}

std::vector<StepMetrics> train(const test::GoldenFile& golden, const std::string& precision,
                               const MemoryOptions& memory) {
  const test::TempFolder folder;
  const ModelConfig config = test::golden_model_config(golden.config);
  const torch::Tensor& ids = golden.tensors.at("batches.ids");
  TokenLoader loader(
      write_tokens(ids, config.vocab_size, folder / "tokens"),
      {.batch_size = ids.size(1), .seq_len = ids.size(2), .pack = false, .shuffle = false});
  StateDict weights;
  for (const auto& [name, tensor] : golden.tensors)
    if (name.starts_with("weights.")) weights.tensors[name.substr(8)] = tensor;
  CausalLM model(config);
  load_parameters(model, weights, "golden");
  LanguageModeling module(std::move(model), {.adamw = {.lr = kLr, .weight_decay = 0.01},
                                             .schedule = {.kind = Schedule::kMinimind}});
  const auto steps = std::make_shared<StepCollector>();
  Trainer trainer({.max_steps = kSteps,
                   .precision = precision,
                   .accelerator = "cpu",
                   .accumulate_grad_batches = kAccumulate,
                   .loss_average = "micro-batches",  // as MiniMind, which the goldens are of
                   .gradient_clip_val = 1.0,
                   .callbacks = {steps},
                   .memory = memory});
  trainer.fit(module, loader);
  return steps->steps;
}

void expect_pytorchs_steps(const std::string& file, const std::string& precision,
                           const Tolerance& tolerance, const MemoryOptions& memory = {}) {
  const test::GoldenFile golden = test::read_golden(file);
  const auto expected = [&](const char* what) { return golden.tensors.at(precision + "." + what); };
  const std::vector<StepMetrics> steps = train(golden, precision, memory);
  ASSERT_EQ(steps.size(), kSteps);
  for (std::int64_t i = 0; i < kSteps; ++i) {
    const StepMetrics& step = steps[static_cast<std::size_t>(i)];
    const double grad_norm = expected("grad_norms")[i].item<double>();
    EXPECT_NEAR(step.loss, expected("losses")[i].item<double>(), tolerance.loss) << "step " << i;
    EXPECT_NEAR(step.lr, expected("lrs")[i].item<double>(), 1e-12) << "step " << i;
    EXPECT_NEAR(*step.grad_norm, grad_norm, tolerance.relative_grad_norm * grad_norm)
        << "step " << i;
    EXPECT_EQ(step.scale.value_or(1.0), expected("scales")[i].item<double>()) << "step " << i;
    EXPECT_FALSE(step.skipped) << "step " << i;
  }
  EXPECT_LT(steps.back().loss, steps.front().loss);
}

// Each is about three times the largest difference that was seen, over native and upcast matmuls.
// Whether a recipe's rounding took place at all, precision_test.cpp shows on models that are made
// for it.
constexpr Tolerance kFp32 = {.loss = 1e-5, .relative_grad_norm = 2e-5};
constexpr Tolerance kBf16 = {.loss = 5e-3, .relative_grad_norm = 9e-3};
constexpr Tolerance kFp16 = {.loss = 1e-3, .relative_grad_norm = 2e-3};

TEST(Losses, AdaptersInFp32EqualPefts) {
  for (const char* name : {"llama", "qwen2", "qwen3"}) expect_pefts_steps(name, "32-true", kFp32);
}
TEST(Losses, AdaptersInBf16MixedStayAsCloseToFp32AsPefts) {
  for (const char* name : {"llama", "qwen2", "qwen3"}) expect_pefts_gap(name);
}

TEST(Losses, DenseFp32EqualsPyTorch) {
  expect_pytorchs_steps("minimind_dense.safetensors", "32-true", kFp32);
}
TEST(Losses, DenseBf16MixedEqualsPyTorch) {
  expect_pytorchs_steps("minimind_dense.safetensors", "bf16-mixed", kBf16);
}
TEST(Losses, Dense16MixedEqualsPyTorch) {
  expect_pytorchs_steps("minimind_dense.safetensors", "16-mixed", kFp16);
}
// PyTorch has none of these; its own recipe's run is what they stand in for.
TEST(Losses, LeanStaysWithPyTorchs) {
  const MemoryOptions lean{.memory = "lean"};
  expect_pytorchs_steps("minimind_dense.safetensors", "32-true",
                        {.loss = 9e-4, .relative_grad_norm = 9e-4}, lean);
  expect_pytorchs_steps("minimind_dense.safetensors", "bf16-mixed",
                        {.loss = 7e-3, .relative_grad_norm = 9e-3}, lean);
  expect_pytorchs_steps("minimind_dense.safetensors", "16-mixed",
                        {.loss = 1.3e-3, .relative_grad_norm = 3e-3}, lean);
}
TEST(Losses, SplitMastersStayWithPyTorchsBf16Mixed) {
  for (const char* master : {"split16", "split8"})
    expect_pytorchs_steps("minimind_dense.safetensors", "bf16-mixed",
                          {.loss = 9e-3, .relative_grad_norm = 1.2e-2}, {.master_weights = master});
}

// Whichever kernel gives way to its definition, the losses stay PyTorch's.
TEST(Losses, EqualPyTorchsWithEachKernelOff) {
  std::vector<std::string> choices;
  {
    const test::ReferenceScope all("all");
    std::istringstream names(reference_kernels());
    for (std::string name; std::getline(names, name, ',');) choices.push_back(name);
  }
  ASSERT_EQ(choices.size(), 12U);
  choices.emplace_back("all");
  for (const std::string& names : choices) {
    SCOPED_TRACE("composed: " + names);
    const test::ReferenceScope scope(names);
    expect_pytorchs_steps("minimind_dense.safetensors", "32-true", kFp32);
    expect_pytorchs_steps("minimind_dense.safetensors", "bf16-mixed", kBf16);
  }
}

// A rounding may send a token to another expert.
TEST(Losses, MoeFp32EqualsPyTorch) {
  expect_pytorchs_steps("minimind_moe.safetensors", "32-true", kFp32);
}
TEST(Losses, MoeBf16MixedEqualsPyTorch) {
  expect_pytorchs_steps("minimind_moe.safetensors", "bf16-mixed",
                        {.loss = 1.3e-2, .relative_grad_norm = 2.6e-2});
}
TEST(Losses, Moe16MixedEqualsPyTorch) {
  expect_pytorchs_steps("minimind_moe.safetensors", "16-mixed",
                        {.loss = 9e-3, .relative_grad_norm = 1.5e-2});
}

// Generation V3: norms of queries and keys, one expert a token.
TEST(Losses, V3DenseEqualsPyTorch) {
  expect_pytorchs_steps("minimind_v3_dense.safetensors", "32-true", kFp32);
  expect_pytorchs_steps("minimind_v3_dense.safetensors", "bf16-mixed", kBf16);
  expect_pytorchs_steps("minimind_v3_dense.safetensors", "16-mixed", kFp16);
}
TEST(Losses, V3MoeEqualsPyTorch) {
  expect_pytorchs_steps("minimind_v3_moe.safetensors", "32-true", kFp32);
  // Sums of AMX are rounded otherwise, and a router's choice may turn on it: 1.5e-2 there.
  const double loss = this_processor().features.amx_bf16 ? 1.8e-2 : 1.3e-2;
  expect_pytorchs_steps("minimind_v3_moe.safetensors", "bf16-mixed",
                        {.loss = loss, .relative_grad_norm = 2.6e-2});
  expect_pytorchs_steps("minimind_v3_moe.safetensors", "16-mixed",
                        {.loss = 9e-3, .relative_grad_norm = 1.5e-2});
}

}  // namespace
}  // namespace halftone::losses_test
