// SPDX-License-Identifier: Apache-2.0
// The search for the first non-finite value in models of this library, in every precision and on
// every way of the matmuls.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/nn/module.h>

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "halftone/inspect/non_finite_finder.h"
#include "halftone/kernels/fused/rms_norm.h"
#include "halftone/kernels/fused/swiglu.h"
#include "halftone/kernels/linear/linear.h"
#include "support/small_step.h"

namespace halftone::non_finite_layers_test {
namespace {

using test::EveryStepKind;
using test::SmallStep;
using testing::AnyOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;
using Kind = NonFiniteOrigin::Kind;

std::optional<NonFiniteOrigin> find_in(SmallStep& step, double factor = 1.0) {
  std::optional<NonFiniteOrigin> origin =
      find_first_non_finite(*step.model, [&] { return step.loss(factor); });
  if (origin) {
    // Names of C++ types are nothing to a user.
    EXPECT_THAT(to_string(*origin), Not(AnyOf(HasSubstr("CppNode"), HasSubstr("anonymous"))));
  }
  return origin;
}

class NonFiniteLayers : public EveryStepKind {
 protected:
  /// Where the layer's inner matmuls are: of one expert, or of the dense layer.
  std::string feed_forward(int layer) const {
    const std::string name = "layers." + std::to_string(layer) + ".feed_forward.";
    return GetParam().moe ? name + "experts.0." : name;
  }
};

TEST_P(NonFiniteLayers, FindsNothingInAHealthyStep) {
  SmallStep step(GetParam());
  const auto origin = find_in(step);
  EXPECT_FALSE(origin.has_value()) << to_string(*origin);
}

TEST_P(NonFiniteLayers, NamesTheWeightWhoseProductOverflows) {
  SmallStep step(GetParam());
  step.multiply(feed_forward(1) + "w1.weight", 20);
  step.multiply(feed_forward(1) + "w3.weight", 20);
  step.fill(feed_forward(1) + "w2.weight", step.huge());
  const auto origin = find_in(step);
  ASSERT_TRUE(origin.has_value());
  EXPECT_EQ(origin->kind, Kind::kForward) << to_string(*origin);
  EXPECT_THAT(origin->site.parameters, ElementsAre(feed_forward(1) + "w2.weight"))
      << to_string(*origin);
  EXPECT_TRUE(origin->site.reads_parameter);
  EXPECT_THAT(to_string(*origin), HasSubstr("halftone::linear with 'layers.1.feed_forward."));
}

TEST_P(NonFiniteLayers, NamesTheBadOneOfMergedWeights) {
  if (GetParam().moe) GTEST_SKIP() << "attention is that of a dense model";
  for (const std::string bad : {"wq", "wk", "wv"}) {
    SmallStep step(GetParam());
    const std::string name = "layers.1.attention." + bad + ".weight";
    step.fill(name, step.huge());
    const auto origin = find_in(step);
    ASSERT_TRUE(origin.has_value());
    EXPECT_EQ(origin->kind, Kind::kForward) << to_string(*origin);
    EXPECT_THAT(origin->site.parameters, ElementsAre(name)) << to_string(*origin);
  }
}

// The layer's own result is 0; the gradient of its input overflows.
TEST_P(NonFiniteLayers, NamesTheLayerWhoseBackwardProductOverflows) {
  SmallStep step(GetParam());
  step.fill(feed_forward(1) + "w1.weight", 0);
  step.fill(feed_forward(1) + "w3.weight", 0);
  step.fill(feed_forward(1) + "w2.weight", step.huge());
  const auto origin = find_in(step, /*factor=*/1e6 / step.precision.loss_scale().value_or(1.0));
  ASSERT_TRUE(origin.has_value());
  EXPECT_EQ(origin->kind, Kind::kBackward) << to_string(*origin);
  EXPECT_EQ(origin->site.forward, "halftone::linear") << to_string(*origin);
  EXPECT_EQ(origin->site.node, "");
  EXPECT_THAT(origin->site.parameters, ElementsAre(feed_forward(1) + "w2.weight"))
      << to_string(*origin);
  EXPECT_THAT(origin->gradient, Not(HasSubstr("w2")));
  EXPECT_THAT(to_string(*origin), HasSubstr("in the backward pass of halftone::linear with '"));
}

TEST_P(NonFiniteLayers, NamesTheOutputHead) {
  if (GetParam().moe) GTEST_SKIP() << "the head is that of a dense model";
  SmallStep step(GetParam());
  // Embeddings of 0.02 become huge only in the head: its input is normalised.
  step.fill("norm.weight", step.precision.policy().compute == ComputeType::kFloat16 ? 1e4 : 3e37);
  step.multiply("tok_embeddings.weight", 1e3);
  const auto origin = find_in(step);
  ASSERT_TRUE(origin.has_value());
  EXPECT_EQ(origin->kind, Kind::kForward) << to_string(*origin);
  EXPECT_THAT(to_string(*origin), HasSubstr("halftone::linear_cross_entropy"));
  EXPECT_THAT(origin->site.parameters, ElementsAre("tok_embeddings.weight")) << to_string(*origin);
}

INSTANTIATE_TEST_SUITE_P(Every, NonFiniteLayers, testing::ValuesIn(test::all_step_kinds()),
                         test::name_of);

TEST(NonFiniteRecomputation, NamesTheLayerThatRunsAgain) {
  const std::string name = "layers.0.feed_forward.";
  for (const std::string& precision : precision_names()) {
    SmallStep step({precision, "blas,native"}, {.recompute_blocks = true});
    step.fill(name + "w1.weight", 0);
    step.fill(name + "w3.weight", 0);
    step.fill(name + "w2.weight", step.huge());
    const auto origin = find_in(step, /*factor=*/1e6 / step.precision.loss_scale().value_or(1.0));
    ASSERT_TRUE(origin.has_value());
    EXPECT_EQ(origin->kind, Kind::kBackward) << to_string(*origin);
    EXPECT_EQ(origin->site.forward, "halftone::linear") << to_string(*origin);
    EXPECT_THAT(origin->site.parameters, ElementsAre(name + "w2.weight")) << to_string(*origin);
  }
}

// ---- the fused operations, in fp32

struct Weights : torch::nn::Module {
  torch::Tensor add(const std::string& name, const torch::Tensor& value) {
    return register_parameter(name, value);
  }
};

TEST(NonFiniteOperations, NamesANormByItsGradient) {
  Weights module;
  const torch::Tensor weight = module.add("scale", torch::full({8}, 1e36F));
  const torch::Tensor x = module.add("x", torch::full({4, 8}, 1e-20F));
  const auto origin =
      find_first_non_finite(module, [&] { return (rms_norm(x, weight, 1e-5) * 1e3).sum(); });
  ASSERT_TRUE(origin.has_value());
  EXPECT_EQ(place_of(*origin),
            "halftone::rms_norm_gradient in the backward pass of halftone::rms_norm with 'x' and "
            "'scale' makes the first non-finite gradient; it reaches that of 'x'");
}

// The linear layer behind swiglu() computes its gradient early, inside its own backward pass.
TEST(NonFiniteOperations, NamesSwigluWhereALinearLayerComputesItsGradient) {
  Weights module;
  const torch::Tensor inner =
      module.add("inner", torch::cat({torch::full({1, 1}, 1e-20F), torch::full({1, 1}, 1e15F)}));
  const torch::Tensor outer = module.add("outer", torch::ones({1, 1}));
  const auto origin = find_first_non_finite(module, [&] {
    const torch::Tensor gate_up = halftone::linear(torch::ones({2, 1}), inner);
    return (halftone::linear(swiglu(gate_up), outer) * 1e25).sum();
  });
  ASSERT_TRUE(origin.has_value());
  EXPECT_EQ(origin->site.operation, "halftone::swiglu_gradient");
  EXPECT_EQ(origin->site.forward, "halftone::swiglu") << to_string(*origin);
  EXPECT_THAT(to_string(*origin), HasSubstr("halftone::swiglu, after 'inner' makes"));
}

}  // namespace
}  // namespace halftone::non_finite_layers_test
