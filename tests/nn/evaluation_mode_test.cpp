// SPDX-License-Identifier: Apache-2.0
#include "halftone/nn/evaluation_mode.h"

#include <gtest/gtest.h>
#include <torch/nn/modules/dropout.h>
#include <torch/nn/modules/linear.h>

#include <stdexcept>
#include <vector>

namespace halftone::evaluation_mode_test {
namespace {

struct Leaf : torch::nn::Module {
  torch::nn::Dropout dropout = register_module("dropout", torch::nn::Dropout(0.5));
};
/// Keeps `frozen` in eval mode, the usual way to freeze a part.
struct Root : torch::nn::Module {
  void train(bool on) override {
    Module::train(on);
    frozen->eval();
  }
  std::shared_ptr<Leaf> first = register_module("first", std::make_shared<Leaf>());
  std::shared_ptr<Leaf> second = register_module("second", std::make_shared<Leaf>());
  std::shared_ptr<Leaf> frozen = register_module("frozen", std::make_shared<Leaf>());
};

std::vector<bool> modes_of(const Root& root) {
  std::vector<bool> modes = {root.is_training()};
  for (const auto& module : root.modules(/*include_self=*/false))
    modes.push_back(module->is_training());
  return modes;
}

TEST(EvaluationMode, RestoresTheModeOfEachModule) {
  for (int bits = 0; bits < 32; ++bits) {
    Root root;
    root.train((bits & 1) != 0);
    root.first->train((bits & 2) != 0);
    root.first->dropout->train((bits & 4) != 0);
    root.second->train((bits & 8) != 0);
    root.second->dropout->train((bits & 16) != 0);
    const std::vector<bool> before = modes_of(root);
    {
      const EvaluationMode mode(root);
      EXPECT_EQ(modes_of(root), std::vector<bool>(before.size(), false));
      EXPECT_FALSE(torch::GradMode::is_enabled());
    }
    EXPECT_EQ(modes_of(root), before) << bits;
    EXPECT_TRUE(torch::GradMode::is_enabled());
  }
}

TEST(EvaluationMode, RestoresAModuleThatTwoOthersHold) {
  struct Shared : torch::nn::Module {
    explicit Shared(const torch::nn::Dropout& part) { register_module("part", part); }
  };
  torch::nn::Dropout part(0.5);
  torch::nn::Module root;
  root.register_module("a", std::make_shared<Shared>(part));
  const auto b = root.register_module("b", std::make_shared<Shared>(part));
  b->eval();
  part->train();
  { const EvaluationMode mode(root); }
  EXPECT_TRUE(part->is_training());
  EXPECT_FALSE(b->is_training());
  b->train();
  part->eval();
  { const EvaluationMode mode(root); }
  EXPECT_FALSE(part->is_training());
}

TEST(EvaluationMode, EndsWithAnException) {
  Root root;
  root.second->eval();
  const std::vector<bool> before = modes_of(root);
  try {
    const EvaluationMode mode(root);
    throw std::runtime_error("");
  } catch (const std::runtime_error&) {
    EXPECT_EQ(modes_of(root), before);
  }
}

}  // namespace
}  // namespace halftone::evaluation_mode_test
