// SPDX-License-Identifier: Apache-2.0
// Each recipe computes in the format that it names: the first loss and gradient norm of models on
// which that shows, against PyTorch's (tests/golden/make_precision_golden.py). They must be nearer
// to the recipe's own numbers than a third of the way to those of any other format.
#include <gtest/gtest.h>
#include <torch/nn/functional/loss.h>
#include <torch/nn/modules/linear.h>
#include <torch/optim/sgd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "halftone/core/error.h"
#include "halftone/data/tensor_loader.h"
#include "halftone/data/token_file.h"
#include "halftone/kernels/linear/compute_context.h"
#include "halftone/models/parameter_names.h"
#include "halftone/nn/linear.h"
#include "halftone/pretrain/language_modeling.h"
#include "halftone/train/trainer.h"
#include "support/golden_file.h"
#include "support/reference_scope.h"
#include "support/temp_folder.h"

namespace halftone::precision_test {
namespace {

using torch::Tensor;

// In the goldens' order.
const std::vector<std::string> kRecipes = {"32-true", "bf16-mixed", "bf16-true", "16-mixed",
                                           "16-true", "int8-mixed", "fp8-mixed"};

std::size_t index_of(const std::string& recipe) {
  return static_cast<std::size_t>(std::find(kRecipes.begin(), kRecipes.end(), recipe) -
                                  kRecipes.begin());
}

/// The format of the matmuls: "bf16" of "bf16-true".
std::string format_of(const std::string& recipe) { return recipe.substr(0, recipe.find('-')); }

struct StepCollector : Callback {
  void on_step_end(Trainer& /*trainer*/, const StepMetrics& metrics) override {
    steps.push_back(metrics);
  }
  std::vector<StepMetrics> steps;
};

StateDict weights_of(const test::GoldenFile& golden) {
  StateDict weights;
  for (const auto& [name, base] : golden.tensors) {
    if (!name.starts_with("base.")) continue;
    const std::string parameter = name.substr(5);
    weights.tensors[parameter] = base.to(torch::kFloat) * golden.tensors.at("factor." + parameter);
  }
  return weights;
}

TrainerOptions options_for(const std::string& recipe, std::shared_ptr<StepCollector> collector) {
  return {.max_steps = 1,
          .precision = recipe,
          .accelerator = "cpu",
          .callbacks = {std::move(collector)},
          .scaler = {.init_scale = 1.0, .min_scale = 1.0, .max_scale = 1.0}};
}

/// `found` is nearer to the recipe's own number than a third of the way to any other's that
/// `competes`.
template <class Competes>
void expect_own(const Tensor& expected, double found, const std::string& recipe,
                const Competes& competes) {
  const double own = expected[static_cast<std::int64_t>(index_of(recipe))].item<double>();
  for (const std::string& other : kRecipes) {
    if (other == recipe || !competes(other)) continue;
    const double theirs = expected[static_cast<std::int64_t>(index_of(other))].item<double>();
    EXPECT_LT(std::abs(found - own), std::abs(theirs - own) / 3)
        << "found " << found << ", expected " << own << ", which is " << theirs << " in " << other;
  }
}

void expect_format(const test::GoldenFile& golden, const StepMetrics& step,
                   const std::string& recipe, bool compares_norms = true) {
  expect_own(golden.tensors.at("losses"), step.loss, recipe, [](const auto&) { return true; });
  if (!compares_norms) return;
  // The norm shows the matmuls' format, hardly which tensors are kept in it.
  expect_own(golden.tensors.at("grad_norms"), *step.grad_norm, recipe,
             [&](const std::string& other) { return format_of(other) != format_of(recipe); });
}

TokenizedData write_tokens(const Tensor& ids, std::int64_t vocab_size,
                           const std::filesystem::path& path) {
  TokenFileWriter writer(path, vocab_size, /*key=*/1);
  const Tensor rows = ids.to(torch::kInt).contiguous();
  for (std::int64_t i = 0; i < rows.size(0); ++i) {
    const auto* first = rows[i].const_data_ptr<std::int32_t>();
    writer.begin_sample();
    writer.add(std::vector<std::int32_t>(first, first + rows.size(1)),
               static_cast<std::size_t>(rows.size(1)));
  }
  writer.finish();
  return {.tokens = std::make_shared<TokenFile>(path), .pad_id = 0};
}

ModelConfig model_config(const nlohmann::json& json) {
  return {.dim = json["dim"],
          .n_layers = json["n_layers"],
          .n_heads = json["n_heads"],
          .n_kv_heads = json["n_kv_heads"],
          .hidden_dim = json["hidden_dim"],
          .vocab_size = json["vocab_size"],
          .max_seq_len = json["max_seq_len"],
          .use_moe = json["use_moe"]};
}

StepMetrics first_step_of_model(const test::GoldenFile& golden, const std::string& recipe) {
  const test::TempFolder folder;
  const ModelConfig config = model_config(golden.config);
  const Tensor& ids = golden.tensors.at("ids");
  TokenLoader loader(
      write_tokens(ids, config.vocab_size, folder / "tokens"),
      {.batch_size = ids.size(0), .seq_len = ids.size(1), .pack = false, .shuffle = false});
  CausalLM model(config);
  load_parameters(model, weights_of(golden), "golden");
  LanguageModeling module(std::move(model), {});
  const auto collector = std::make_shared<StepCollector>();
  Trainer(options_for(recipe, collector)).fit(module, loader);
  return collector->steps.front();
}

class EveryRecipe : public testing::TestWithParam<std::string> {};

TEST_P(EveryRecipe, OfTheDenseModelIsPyTorchs) {
  const test::GoldenFile golden = test::read_golden("precision_dense.safetensors");
  expect_format(golden, first_step_of_model(golden, GetParam()), GetParam());
}

TEST_P(EveryRecipe, OfTheMixtureOfExpertsIsPyTorchs) {
  const test::GoldenFile golden = test::read_golden("precision_moe.safetensors");
  expect_format(golden, first_step_of_model(golden, GetParam()), GetParam());
}

TEST_P(EveryRecipe, WithoutKernelsOfOursIsPyTorchs) {
  const test::ReferenceScope composed("all");
  const test::GoldenFile golden = test::read_golden("precision_dense.safetensors");
  // LibTorch's attention rounds elsewhere, and many values of this model lie between two numbers of
  // fp8: each that goes to the other one shows in the norm.
  expect_format(golden, first_step_of_model(golden, GetParam()), GetParam(),
                /*compares_norms=*/GetParam() != "fp8-mixed");
}

/// The script's Module, of LibTorch's own layers or of ours.
template <class Layer>
class Branches : public TrainingModule<> {
 public:
  Tensor training_step(const Batch& batch, std::int64_t /*index*/) override {
    const Tensor sum = middle(batch.data) + large(small(batch.data)) + rows(batch.data);
    weight_dtype = middle->weight.scalar_type();
    product_dtype = sum.scalar_type();
    compute = compute_context().compute;
    return torch::nn::functional::mse_loss((sum * scale).to(torch::kFloat),
                                           batch.target.to(torch::kFloat));
  }
  std::vector<OptimizerSetup> configure_optimizers(const OptimizerContext& /*context*/) override {
    return {std::make_shared<torch::optim::SGD>(parameters(), 1e-9)};
  }

  Layer layer(const char* name, std::int64_t in, std::int64_t out) {
    return register_module(name, Layer(torch::nn::LinearOptions(in, out).bias(false)));
  }
  Layer middle = layer("middle", 64, 16);
  Layer small = layer("small", 64, 32);
  Layer large = layer("large", 32, 16);
  Layer rows = layer("rows", 64, 16);
  Tensor scale = register_parameter("scale", torch::ones({16}));

  torch::ScalarType weight_dtype = torch::kDouble, product_dtype = torch::kDouble;
  ComputeType compute = ComputeType::kFloat32;
};

template <>
Linear Branches<Linear>::layer(const char* name, std::int64_t in, std::int64_t out) {
  return register_module(name, Linear(in, out));
}

template <class Layer>
void expect_format_of_module(const std::string& recipe) {
  const test::GoldenFile golden = test::read_golden("precision_module.safetensors");
  Branches<Layer> module;
  {
    const torch::NoGradGuard no_grad;
    const StateDict weights = weights_of(golden);
    for (const auto& parameter : module.named_parameters())
      parameter.value().copy_(weights.tensor(parameter.key()));
  }
  const PrecisionPolicy policy = parse_precision(recipe);
  const Tensor x = golden.tensors.at("x").to(policy.parameter);
  TensorLoader loader({x, golden.tensors.at("y")}, {.batch_size = x.size(0), .shuffle = false});
  const auto collector = std::make_shared<StepCollector>();
  Trainer(options_for(recipe, collector)).fit(module, loader);
  expect_format(golden, collector->steps.front(), recipe);
  EXPECT_EQ(module.weight_dtype, policy.parameter);
  EXPECT_EQ(module.product_dtype, policy.compute_dtype());
  EXPECT_EQ(module.compute, policy.compute);
}

TEST_P(EveryRecipe, OfAModuleOfLibTorchsLayersIsPyTorchs) {
  if (parse_precision(GetParam()).quantizes())
    EXPECT_THROW(expect_format_of_module<torch::nn::Linear>(GetParam()), UserError);
  else
    expect_format_of_module<torch::nn::Linear>(GetParam());
}

TEST_P(EveryRecipe, OfAModuleOfOurLayersIsPyTorchs) { expect_format_of_module<Linear>(GetParam()); }

INSTANTIATE_TEST_SUITE_P(Precision, EveryRecipe, testing::ValuesIn(kRecipes),
                         [](const auto& instance) {
                           std::string name = instance.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

}  // namespace
}  // namespace halftone::precision_test
