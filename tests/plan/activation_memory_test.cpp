// SPDX-License-Identifier: Apache-2.0
// The prediction against the tensors of real steps.
#include "halftone/plan/activation_memory.h"

#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "halftone/models/minimind.h"
#include "halftone/train/mixed_precision.h"
#include "support/compute_contexts.h"
#include "support/gemm_config_scope.h"
#include "support/tensor_memory.h"

namespace halftone::activation_memory_test {
namespace {

using torch::Tensor;

struct Case {
  std::string name;
  ModelConfig model;
  StepShape shape;
};

// Wide and long enough that what grows with neither does not matter.
ModelConfig small_model() {
  return {.dim = 192,
          .n_layers = 4,
          .n_heads = 6,
          .n_kv_heads = 2,
          .vocab_size = 1000,
          .max_seq_len = 256};
}

std::vector<Case> cases() {
  std::vector<Case> all;
  const ModelConfig dense = small_model();
  all.push_back({"dense", dense, {4, 128}});
  all.push_back({"long_rows", dense, {1, 200}});
  all.push_back({"accumulated", dense, {2, 100, 2}});
  ModelConfig wide_head = dense;
  wide_head.vocab_size = 20000;
  all.push_back({"wide_head", wide_head, {2, 128}});
  ModelConfig experts = dense;
  experts.use_moe = true;
  all.push_back({"experts", experts, {4, 128}});
  experts.n_shared_experts = 0;
  experts.num_experts_per_tok = 1;
  all.push_back({"one_expert", experts, {4, 128}});
  ModelConfig dropout = dense;
  dropout.dropout = 0.1;
  all.push_back({"dropout", dropout, {4, 128}});
  return all;
}

/// One optimizer step after another, as the trainer does them.
class Training {
 public:
  Training(const Case& test, const std::string& precision, const std::string& memory)
      : shape_(test.shape),
        recipe_(
            memory_policy({.memory = memory, .clip_mode = "exact"}, parse_precision(precision))),
        precision_(parse_precision(precision), {}, torch::kCPU, recipe_),
        model_(test.model),
        ids_(torch::randint(test.model.vocab_size, {shape_.batch_size, shape_.predictions + 1},
                            torch::kInt64)),
        mask_(torch::ones({shape_.batch_size, shape_.predictions})) {
    precision_.convert_module(*model_);
    std::vector<std::pair<std::string, Tensor>> named;
    for (const auto& item : model_->named_parameters())
      named.emplace_back(item.key(), item.value());
    AdamWOptions options;
    recipe_.apply_to(options);
    optimizer_ = std::make_shared<AdamW>(std::move(named), options);
  }

  void step() {
    optimizer_->zero_grad();
    if (recipe_.release_gradients) {
      precision_.backward_and_step(loss(shape_.micro_batches), {optimizer_}, {.value = 1.0});
    } else {
      {
        const ComputeScope scope(test::caching_weights(shape_.micro_batches > 1));
        for (std::int64_t i = 0; i < shape_.micro_batches; ++i) precision_.backward(loss(1));
      }
      precision_.step({optimizer_}, {.value = 1.0});
    }
    precision_.update();
  }

  StepDtypes formats() const { return step_dtypes(precision_.policy(), recipe_); }

 private:
  Tensor loss(std::int64_t micro_batches) {
    const auto region = precision_.forward_context(pass_++);
    const Tensor ids = ids_.repeat({micro_batches, 1}), mask = mask_.repeat({micro_batches, 1});
    return model_
        ->loss(ids.narrow(1, 0, shape_.predictions), ids.narrow(1, 1, shape_.predictions), mask)
        .total();
  }

  StepShape shape_;
  MemoryPolicy recipe_;
  MixedPrecision precision_;
  MiniMindLM model_;
  std::shared_ptr<AdamW> optimizer_;
  Tensor ids_, mask_;
  std::int64_t pass_ = 0;
};

void expect_predicted(const Case& test, const std::string& precision, const std::string& memory) {
  torch::manual_seed(1);
  test::TensorMemory tensors;
  Training training(test, precision, memory);
  training.step();  // tables are there
  const std::int64_t before = tensors.live();
  tensors.reset_peak();
  training.step();
  const auto measured = static_cast<double>(tensors.peak() - before);
  const ActivationMemory predicted =
      peak_activation_memory(test.model, test.shape, training.formats());
  EXPECT_NEAR(predicted.total() / measured, 1.0, 0.15)
      << test.name << " in " << precision << ", " << memory << ": " << measured << " bytes, not "
      << predicted.activations << " + " << predicted.workspace;
}

class ActivationMemoryOf : public testing::TestWithParam<std::string> {
 protected:
  /// Recipes that the precision does not exclude.
  static std::vector<std::string> possible() {
    std::vector<std::string> names = memory_names();
    if (parse_precision(GetParam()).loss_scaling) std::erase(names, "leanest");
    return names;
  }
};

TEST_P(ActivationMemoryOf, AreThoseOfItsTensors) {
  for (const Case& test : cases())
    for (const std::string& memory : possible()) expect_predicted(test, GetParam(), memory);
}

TEST_P(ActivationMemoryOf, FollowTheWaysOfProducts) {
  for (const char* ways : {"bf16=native,fp16=native", "bf16=upcast,fp16=upcast"}) {
    const test::GemmConfigScope scope(ways);
    for (const std::string& memory : possible())
      expect_predicted(cases().front(), GetParam(), memory);
  }
}

INSTANTIATE_TEST_SUITE_P(Recipes, ActivationMemoryOf, testing::ValuesIn(precision_names()),
                         [](const auto& param_info) {
                           std::string name = param_info.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return "of_" + name;
                         });

}  // namespace
}  // namespace halftone::activation_memory_test
