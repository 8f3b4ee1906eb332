// SPDX-License-Identifier: Apache-2.0
#include "halftone/diagnostics/compare/compare.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/nn/functional/activation.h>
#include <torch/nn/functional/loss.h>
#include <torch/nn/modules/linear.h>
#include <torch/nn/modules/normalization.h>
#include <torch/optim/sgd.h>

#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "halftone/core/error.h"
#include "halftone/models/causal_lm.h"
#include "halftone/nn/rms_norm.h"
#include "halftone/train/training_module.h"
#include "support/golden_file.h"
#include "support/message_of.h"

namespace halftone::compare_test {
namespace {

namespace F = torch::nn::functional;
using testing::AllOf;
using testing::Each;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Property;
using torch::Tensor;

using Example = torch::data::Example<>;

/// That of make_compare_golden.py.
struct Classifier : TrainingModule<> {
  Classifier() {
    first = register_module("first", torch::nn::Linear(24, 48));
    norm = register_module("norm", torch::nn::LayerNorm(torch::nn::LayerNormOptions({48})));
    second = register_module("second", torch::nn::Linear(48, 10));
  }
  Tensor training_step(const Example& batch, std::int64_t /*index*/) override {
    const Tensor hidden = F::gelu(norm(first(batch.data).to(torch::kFloat)));
    return F::cross_entropy(second(hidden).to(torch::kFloat), batch.target) * loss_factor;
  }
  std::vector<OptimizerSetup> configure_optimizers(const OptimizerContext& /*context*/) override {
    return {std::make_shared<torch::optim::SGD>(parameters(), 0.1)};
  }
  torch::nn::Linear first{nullptr}, second{nullptr};
  torch::nn::LayerNorm norm{nullptr};
  double loss_factor = 1.0;
};

struct Golden {
  Golden() : file(test::read_golden("compare.safetensors")) {
    const torch::NoGradGuard no_grad;
    for (auto& item : module->named_parameters())
      item.value().copy_(file.tensors.at("w." + item.key()));
    module->loss_factor = file.config["loss"];
  }
  TrainingStep step() {
    return training_step_on(module, Example(file.tensors.at("x"), file.tensors.at("y")));
  }
  test::GoldenFile file;
  std::shared_ptr<Classifier> module = std::make_shared<Classifier>();
};

const TensorComparison& find(const Comparison& comparison, ComparedKind kind,
                             const std::string& name) {
  for (const TensorComparison& tensor : comparison.tensors)
    if (tensor.kind == kind && tensor.name == name) return tensor;
  throw UserError("no tensor " + name);
}

struct Case {
  std::string precision;
  double scale;
  std::string name() const {
    char text[64];
    std::snprintf(text, sizeof text, "%s@%g", precision.c_str(), scale);
    return text;
  }
};

TEST(Compare, FiguresAreThoseOfPyTorch) {
  Golden golden;
  for (const Case& one : {Case{"bf16-mixed", 1.0}, Case{"16-mixed", 1.0}, Case{"16-mixed", 1024.0},
                          Case{"16-mixed", std::exp2(36)}}) {
    SCOPED_TRACE(one.name());
    const Comparison found =
        compare_precisions(golden.step(), {.precision = one.precision, .loss_scale = one.scale});
    const Tensor& figures = golden.file.tensors.at("figures." + one.name());
    const auto names = golden.file.config["parameters"].get<std::vector<std::string>>();
    for (std::size_t i = 0; i < names.size(); ++i) {
      const TensorComparison& tensor = find(found, ComparedKind::kGradient, names[i]);
      const auto expected = [&](int column) {
        return figures[static_cast<std::int64_t>(i)][column].item<double>();
      };
      EXPECT_NEAR(tensor.flushed_share, expected(2), 0.005) << names[i];
      EXPECT_NEAR(tensor.overflowed_share, expected(3), 0.005) << names[i];
      EXPECT_NEAR(tensor.flush_if_stored_share, expected(4), 0.005) << names[i];
      if (expected(3) > 0) continue;  // no error of what is not finite
      EXPECT_NEAR(tensor.relative_error, expected(0), 1e-3) << names[i];
      EXPECT_NEAR(tensor.cosine, expected(1), 1e-3) << names[i];
    }
    const Tensor& losses = golden.file.tensors.at("loss." + one.name());
    EXPECT_NEAR(found.loss, losses[0].item<double>(), 1e-6);
    EXPECT_NEAR(found.reference_loss, losses[1].item<double>(), 1e-9);
  }
}

TEST(Compare, APrecisionEqualsItself) {
  Golden golden;
  const Comparison found = compare_precisions(golden.step(), {.precision = "32-true"});
  EXPECT_EQ(found.judgement.verdict, Verdict::kSafe);
  EXPECT_EQ(found.loss, found.reference_loss);
  for (const TensorComparison& tensor : found.tensors) {
    EXPECT_EQ(tensor.relative_error, 0.0) << tensor.name;
    EXPECT_EQ(tensor.largest_ulp, 0.0) << tensor.name;
    EXPECT_GT(tensor.cosine, 1.0 - 1e-12) << tensor.name;
  }
}

TEST(Compare, LeavesTheNetworkAsItWas) {
  Golden golden;
  std::vector<Tensor> before;
  std::vector<const void*> places;
  for (const Tensor& parameter : golden.module->parameters()) {
    before.push_back(parameter.detach().clone());
    places.push_back(parameter.data_ptr());
  }
  compare_precisions(golden.step(), {.precision = "bf16-mixed"});
  compare_precisions(golden.step(), {.precision = "16-mixed", .keep_fp32 = {"norm"}});
  const std::vector<Tensor> after = golden.module->parameters();
  for (std::size_t i = 0; i < after.size(); ++i) {
    EXPECT_TRUE(after[i].equal(before[i]));
    EXPECT_EQ(after[i].scalar_type(), torch::kFloat);
    EXPECT_EQ(after[i].data_ptr(), places[i]);
    EXPECT_FALSE(after[i].grad().defined());
  }
}

TEST(Compare, FindsTheScaleThatKeepsGradients) {
  Golden golden;
  const Comparison flushed =
      compare_precisions(golden.step(), {.precision = "16-mixed", .loss_scale = 1.0});
  EXPECT_EQ(flushed.judgement.verdict, Verdict::kChangeScale) << flushed.judgement.reason;
  EXPECT_TRUE(flushed.judgement.verified);
  EXPECT_THAT(flushed.judgement.config, HasSubstr("loss_scale = \""));
  EXPECT_EQ(find(flushed, ComparedKind::kGradient, "first.weight").verdict,
            TensorVerdict::kUnderflow);
  ASSERT_TRUE(flushed.judgement.least_scale);
  // With the least scale it is safe, with an eighth of it it is not.
  const double least = *flushed.judgement.least_scale;
  EXPECT_GT(least, 8.0);
  EXPECT_EQ(compare_precisions(golden.step(), {.precision = "16-mixed", .loss_scale = least})
                .judgement.verdict,
            Verdict::kSafe);
  EXPECT_EQ(compare_precisions(golden.step(), {.precision = "16-mixed", .loss_scale = least / 8})
                .judgement.verdict,
            Verdict::kChangeScale);
  const Comparison high =
      compare_precisions(golden.step(), {.precision = "16-mixed", .loss_scale = std::exp2(36)});
  EXPECT_EQ(high.judgement.verdict, Verdict::kChangeScale) << high.judgement.reason;
  EXPECT_TRUE(high.judgement.verified);
}

TEST(Compare, NamesALayerThatOverflows) {
  Golden golden;
  {
    const torch::NoGradGuard no_grad;
    golden.module->first->weight.mul_(3e5);  // the norm behind it takes the factor away
  }
  golden.module->loss_factor = 1.0;
  const Comparison found = compare_precisions(golden.step(), {.precision = "16-mixed"});
  EXPECT_EQ(found.judgement.verdict, Verdict::kKeepFp32) << found.judgement.reason;
  EXPECT_THAT(found.judgement.keep_fp32, ElementsAre("^first$"));
  EXPECT_TRUE(found.judgement.verified);
  const Comparison wide = compare_precisions(golden.step(), {.precision = "bf16-mixed"});
  EXPECT_EQ(wide.judgement.verdict, Verdict::kSafe) << wide.judgement.reason;
}

/// Predictions near 1 that bf16 rounds the same way: their errors, which all point one way, add up
/// in the gradients of what is before.
struct Backgrounds : TrainingModule<> {
  Backgrounds() {
    norm = register_module("norm", RmsNorm(64, 1e-6));
    last = register_module("last", torch::nn::Linear(64, 32));
    const torch::NoGradGuard no_grad;
    last->weight.fill_(1e-5);
    last->bias.fill_(1.003);
    // So that no gradient of its own names it.
    for (Tensor& parameter : last->parameters()) parameter.requires_grad_(false);
  }
  Tensor training_step(const Example& batch, std::int64_t /*index*/) override {
    return (last(norm(batch.data)).to(torch::kFloat) - batch.target).square().mean();
  }
  std::vector<OptimizerSetup> configure_optimizers(const OptimizerContext& /*context*/) override {
    return {std::make_shared<torch::optim::SGD>(parameters(), 0.1)};
  }
  RmsNorm norm{nullptr};
  torch::nn::Linear last{nullptr};
};

TEST(Compare, NamesTheLayerWhoseRoundingComesBack) {
  torch::manual_seed(3);
  Backgrounds module;
  const Example batch(1 + 0.1 * torch::randn({64, 64}), torch::ones({64, 32}));
  const TrainingStep step = training_step_on(module, batch);
  const Comparison found = compare_precisions(step, {.precision = "bf16-mixed"});
  EXPECT_EQ(found.judgement.verdict, Verdict::kKeepFp32) << found.judgement.reason;
  EXPECT_TRUE(found.judgement.verified);
  EXPECT_THAT(found.judgement.keep_fp32, ElementsAre("^last$"));
  EXPECT_NE(find(found, ComparedKind::kGradient, "norm.weight").verdict, TensorVerdict::kFine);
  const Comparison kept =
      compare_precisions(step, {.precision = "bf16-mixed", .keep_fp32 = found.judgement.keep_fp32});
  EXPECT_EQ(kept.judgement.verdict, Verdict::kSafe) << kept.judgement.reason;
}

TEST(Compare, RefusesWhatHasNoMeaning) {
  Golden golden;
  EXPECT_THAT(
      test::message_of<UserError>([&] { compare_precisions(golden.step(), {.precision = "bf8"}); }),
      HasSubstr("bf8"));
  EXPECT_THAT(test::message_of<UserError>([&] {
                compare_precisions(golden.step(), {.precision = "16-mixed", .loss_scale = -1.0});
              }),
              HasSubstr("above 0"));
  EXPECT_THAT(test::message_of<UserError>([&] {
                compare_precisions(golden.step(), {.precision = "16-true", .keep_fp32 = {"norm"}});
              }),
              HasSubstr("goes with a mixed precision"));
  EXPECT_THAT(
      test::message_of<UserError>([&] { compare_precisions(golden.step(), {.what_if = {"fp4"}}); }),
      HasSubstr("number format"));
}

/// MiniMind on random ids.
struct Language : TrainingModule<Example> {
  explicit Language(bool moe) {
    torch::manual_seed(5);
    model = register_module("model", CausalLM(ModelConfig{.dim = 128,
                                                          .n_layers = 2,
                                                          .n_heads = 4,
                                                          .n_kv_heads = 2,
                                                          .vocab_size = 256,
                                                          .max_seq_len = 64,
                                                          .use_moe = moe}));
  }
  Tensor training_step(const Example& batch, std::int64_t /*index*/) override {
    const LossOutput loss =
        model->loss(batch.data, batch.target, torch::ones_like(batch.data, torch::kFloat));
    return loss.total();
  }
  std::vector<OptimizerSetup> configure_optimizers(const OptimizerContext& /*context*/) override {
    return {};
  }
  CausalLM model{nullptr};
};

struct Setting {
  std::string precision;
  bool moe;
};

class CompareMiniMind : public testing::TestWithParam<Setting> {};

// What the noise predicts and what each precision does are two computations: their ratio is near 1
// where rounding is the only cause.
TEST_P(CompareMiniMind, ErrorsAreWhatRoundingMakes) {
  const Setting& setting = GetParam();
  const auto module = std::make_shared<Language>(setting.moe);
  torch::manual_seed(6);
  const Tensor ids = torch::randint(256, {8, 33});
  const TrainingStep step =
      training_step_on(module, Example(ids.narrow(1, 0, 32), ids.narrow(1, 1, 32)));
  const Comparison found = compare_precisions(step, {.precision = setting.precision});
  EXPECT_EQ(found.judgement.verdict, Verdict::kSafe) << found.judgement.reason;
  for (const Tensor& parameter : module->parameters())
    EXPECT_EQ(parameter.scalar_type(), torch::kFloat);
  double log_ratios = 0;
  int gradients = 0;
  for (const TensorComparison& tensor : found.tensors) {
    if (tensor.kind != ComparedKind::kGradient || tensor.norm == 0) continue;
    EXPECT_GT(tensor.relative_error, 0.0) << tensor.name;
    EXPECT_GT(tensor.cosine, 0.9) << tensor.name;
    log_ratios += std::log(tensor.relative_error / tensor.tolerance);
    ++gradients;
  }
  EXPECT_GE(gradients, 17);
  EXPECT_NEAR(std::exp(log_ratios / gradients), 1.0, 0.6);
  const TensorComparison& wo =
      find(found, ComparedKind::kActivation, "model.layers.1.attention.wo halftone::linear #0.0");
  EXPECT_EQ(wo.module, "model.layers.1.attention.wo");
  EXPECT_THAT(wo.shape, ElementsAre(8, 32, 128));
}

INSTANTIATE_TEST_SUITE_P(Every, CompareMiniMind,
                         testing::Values(Setting{"bf16-mixed", false}, Setting{"16-mixed", false},
                                         Setting{"bf16-true", false}, Setting{"16-true", false},
                                         Setting{"int8-mixed", false}, Setting{"fp8-mixed", false},
                                         Setting{"bf16-mixed", true}),
                         [](const auto& one) {
                           std::string name = one.param.precision + (one.param.moe ? "_moe" : "");
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

}  // namespace
}  // namespace halftone::compare_test
