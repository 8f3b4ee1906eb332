// SPDX-License-Identifier: Apache-2.0
// Faults put into every kind of layer, forward and backward, in every precision and on every way
// of the matmuls: each is found, with its module, its operation, its direction and its cause.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/conv.h>
#include <torch/nn/modules/linear.h>
#include <torch/nn/modules/normalization.h>
#include <torch/nn/modules/rnn.h>

#include <functional>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "halftone/autocast/autocast.h"
#include "halftone/inspect/non_finite_finder.h"
#include "halftone/kernels/gemm/fast_cpu_gemms.h"
#include "support/small_step.h"

namespace halftone::injected_faults_test {
namespace {

using test::EveryStepKind;
using test::SmallStep;
using test::StepKind;
using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using torch::Tensor;
using Cause = NonFiniteCause;
using Kind = NonFiniteOrigin::Kind;

bool computes_fp16(const SmallStep& step) {
  return step.precision.policy().compute == ComputeType::kFloat16;
}

struct Fault {
  std::string parameter;  // that is to be named
  std::string module;     // its
  std::string operation;  // that it is part of: within, operation or forward operation
  std::function<void(SmallStep&)> inject;
};

/// The path of a layer's matmuls: of one expert, or of the dense layer.
std::string feed_forward(bool moe) {
  return moe ? "layers.1.feed_forward.experts.0." : "layers.1.feed_forward.";
}

Fault filled(const std::string& module, const std::string& operation) {
  return {module + ".weight", module, operation,
          [module](SmallStep& step) { step.fill(module + ".weight", step.huge()); }};
}

/// A norm hands its result on in the format of the layer behind it; the last one in 16-mixed does
/// not, and the head rounds it.
Fault last_norm(const StepKind& kind) {
  Fault fault = filled("norm", "halftone::rms_norm");
  if (kind.precision != "16-mixed") return fault;
  return {"tok_embeddings.weight", "tok_embeddings", "halftone::linear_cross_entropy",
          fault.inject};
}

std::vector<Fault> forward_faults(const StepKind& kind) {
  const std::string layer = "layers.1.", ffn = feed_forward(kind.moe);
  std::vector<Fault> faults{filled(ffn + "w1", "halftone::linear"),
                            filled(ffn + "w3", "halftone::linear")};
  faults.push_back({ffn + "w2.weight", ffn + "w2", "halftone::linear", [ffn](SmallStep& step) {
                      step.multiply(ffn + "w1.weight", 20);
                      step.multiply(ffn + "w3.weight", 20);
                      step.fill(ffn + "w2.weight", step.huge());
                    }});
  if (kind.moe) return faults;
  for (const char* name : {"wq", "wk", "wv"})
    faults.push_back(filled(layer + "attention." + name, "halftone::linear"));
  faults.push_back({layer + "attention.wo.weight", layer + "attention.wo", "halftone::linear",
                    [layer](SmallStep& step) {
                      step.multiply(layer + "attention.wv.weight", 50);
                      step.fill(layer + "attention.wo.weight", step.huge());
                    }});
  for (const char* norm : {"layers.1.attention_norm", "layers.1.ffn_norm"})
    faults.push_back(filled(norm, "halftone::rms_norm"));
  faults.push_back(last_norm(kind));
  // The embedding is the head, too: small numbers are normalised first.
  faults.push_back({"tok_embeddings.weight", "tok_embeddings", "halftone::linear_cross_entropy",
                    [](SmallStep& step) {
                      step.fill("norm.weight", computes_fp16(step) ? 1e4 : 3e37);
                      step.multiply("tok_embeddings.weight", 1e3);
                    }});
  return faults;
}

/// The layer's own result is small; the gradient of its input overflows.
std::vector<Fault> backward_faults(bool moe) {
  const std::string layer = "layers.1.", ffn = feed_forward(moe);
  std::vector<Fault> faults;
  faults.push_back({ffn + "w2.weight", ffn + "w2", "halftone::linear", [ffn](SmallStep& step) {
                      step.fill(ffn + "w1.weight", 0);
                      step.fill(ffn + "w3.weight", 0);
                      step.fill(ffn + "w2.weight", step.huge());
                    }});
  if (moe) return faults;
  faults.push_back({layer + "attention.wo.weight", layer + "attention.wo", "halftone::linear",
                    [layer](SmallStep& step) {
                      step.fill(layer + "attention.wv.weight", 0);
                      step.fill(layer + "attention.wo.weight", step.huge());
                    }});
  faults.push_back({layer + "attention.wv.weight", layer + "attention", "halftone::linear",
                    [layer](SmallStep& step) {
                      step.fill(layer + "attention_norm.weight", 0);
                      step.fill(layer + "attention.wv.weight", step.huge());
                    }});
  return faults;
}

std::string described(const NonFiniteOrigin& origin) { return to_string(origin); }

/// Where the site says that the operation is, or is part of.
std::vector<std::string> operations_of(const Site& site) {
  return {site.operation, site.within, site.forward};
}

class InjectedFaults : public EveryStepKind {
 protected:
  static std::optional<NonFiniteOrigin> found(SmallStep& step, double factor = 1.0) {
    return find_first_non_finite(*step.model, [&] { return step.loss(factor); });
  }

  static void expect_overflow(const NonFiniteOrigin& origin, const Fault& fault, Kind kind) {
    SCOPED_TRACE(fault.parameter + ": " + described(origin));
    EXPECT_EQ(to_string(origin.kind), to_string(kind));
    EXPECT_EQ(origin.site.is_backward, kind == Kind::kBackward);
    EXPECT_THAT(origin.site.parameters, Contains(fault.parameter));
    EXPECT_EQ(origin.site.module, fault.module);
    EXPECT_THAT(operations_of(origin.site), Contains(fault.operation));
    EXPECT_EQ(to_string(origin.diagnosis.cause), "overflow");
    ASSERT_FALSE(origin.diagnosis.inputs.empty());
    for (const TensorFacts& facts : origin.diagnosis.inputs) EXPECT_EQ(facts.non_finite, 0);
    EXPECT_THAT(described(origin), HasSubstr("it overflows "));
  }
};

TEST_P(InjectedFaults, InForwardAreFound) {
  for (const Fault& fault : forward_faults(GetParam())) {
    SmallStep step(GetParam());
    fault.inject(step);
    const auto origin = found(step);
    ASSERT_TRUE(origin.has_value()) << fault.parameter;
    expect_overflow(*origin, fault, Kind::kForward);
    EXPECT_THAT(origin->site.parameters, ElementsAre(fault.parameter));
    EXPECT_TRUE(origin->diagnosis.largest.has_value()) << described(*origin);
    if (computes_fp16(step)) {
      EXPECT_EQ(origin->diagnosis.format, torch::kHalf) << described(*origin);
    }
  }
}

TEST_P(InjectedFaults, InBackwardAreFound) {
  for (const Fault& fault : backward_faults(GetParam().moe)) {
    SmallStep step(GetParam());
    fault.inject(step);
    const auto origin = found(step, /*factor=*/1e6 / step.precision.loss_scale().value_or(1.0));
    ASSERT_TRUE(origin.has_value()) << fault.parameter;
    expect_overflow(*origin, fault, Kind::kBackward);
    EXPECT_NE(origin->gradient, "");
  }
}

TEST_P(InjectedFaults, OfARouterAreFound) {
  if (!GetParam().moe) GTEST_SKIP() << "no router";
  const std::string gate = "layers.1.feed_forward.gate.weight";
  SmallStep step(GetParam());
  // The router computes in fp32, which numbers of fp16 never leave.
  if (step.precision.policy().parameter == torch::kHalf) GTEST_SKIP() << "out of reach";
  step.fill(gate, 3e38);
  const auto origin = found(step);
  ASSERT_TRUE(origin.has_value());
  EXPECT_EQ(origin->site.module, "layers.1.feed_forward.gate") << described(*origin);
  EXPECT_EQ(origin->diagnosis.cause, Cause::kOverflow) << described(*origin);
  EXPECT_EQ(origin->diagnosis.format, torch::kFloat);
}

TEST_P(InjectedFaults, OfBadWeightsAreFound) {
  const std::string name =
      GetParam().moe ? "layers.0.feed_forward.experts.1.w2.weight" : "layers.0.attention.wk.weight";
  SmallStep step(GetParam());
  {
    const torch::NoGradGuard no_grad;
    step.model->named_parameters()[name][3][5] = std::numeric_limits<float>::quiet_NaN();
  }
  const auto origin = found(step);
  ASSERT_TRUE(origin.has_value());
  EXPECT_EQ(origin->kind, Kind::kParameter);
  EXPECT_EQ(origin->diagnosis.cause, Cause::kBadWeights);
  EXPECT_THAT(origin->site.parameters, ElementsAre(name));
  EXPECT_THAT(described(*origin), HasSubstr("the first at [3, 5]"));
}

// ---- faults of a program: its own operations between the model and its loss

struct ProgramFault {
  std::string operation;
  Cause cause;
  Kind kind;
  std::function<Tensor(const Tensor& hidden, const Tensor& mask)> inject;
};

struct BackwardInf : torch::autograd::Function<BackwardInf> {
  static Tensor forward(torch::autograd::AutogradContext*, const Tensor& x) { return x.clone(); }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext*,
                                                 const torch::autograd::variable_list& g) {
    return {g[0] / g[0].detach().mul(0)};
  }
};

std::vector<ProgramFault> program_faults() {
  return {
      {"aten::log", Cause::kLogOfZero, Kind::kForward,
       [](const Tensor& hidden, const Tensor&) { return (hidden * 0).log().mean(); }},
      {"aten::div", Cause::kDivisionByZero, Kind::kForward,
       [](const Tensor& hidden, const Tensor&) {
         return (hidden / (hidden - hidden).detach()).mean();
       }},
      {"aten::mul", Cause::kBadData, Kind::kInput,
       [](const Tensor& hidden, const Tensor& mask) {
         return (hidden.to(torch::kFloat) * mask.unsqueeze(-1)).mean();
       }},
      {"aten::div", Cause::kDivisionByZero, Kind::kBackward,
       [](const Tensor& hidden, const Tensor&) {
         return BackwardInf::apply(hidden.to(torch::kFloat)).mean();
       }},
  };
}

TEST_P(InjectedFaults, OfTheProgramAreFound) {
  if (GetParam().moe) GTEST_SKIP() << "as in a dense model";
  for (const ProgramFault& fault : program_faults()) {
    SmallStep step(GetParam());
    const auto origin = find_first_non_finite(*step.model, [&] {
      Tensor mask = torch::ones({3, 64});
      mask.data_ptr<float>()[2 * 64 + 7] = std::numeric_limits<float>::quiet_NaN();
      const auto region = step.precision.forward_context();
      const Tensor ids = step.text.narrow(1, 0, 64).contiguous();
      const Tensor hidden = step.model->hidden(ids).hidden;
      return step.precision.scaled(fault.inject(hidden, mask).to(torch::kFloat));
    });
    ASSERT_TRUE(origin.has_value()) << fault.operation;
    EXPECT_EQ(origin->site.operation, fault.operation) << described(*origin);
    EXPECT_EQ(to_string(origin->diagnosis.cause), to_string(fault.cause)) << described(*origin);
    EXPECT_EQ(to_string(origin->kind), to_string(fault.kind)) << described(*origin);
    if (fault.cause == Cause::kBadData) {
      EXPECT_THAT(described(*origin), HasSubstr("the first at [2, 7, 0], in row 2"));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Every, InjectedFaults, testing::ValuesIn(test::all_step_kinds()),
                         test::name_of);

// ---- LibTorch's layers under autocast to fp16

struct Layers : torch::nn::Module {
  Layers() {
    torch::manual_seed(11);
    linear = register_module("linear", torch::nn::Linear(64, 64));
    conv = register_module("conv", torch::nn::Conv2d(torch::nn::Conv2dOptions(8, 8, 3).padding(1)));
    lstm =
        register_module("lstm", torch::nn::LSTM(torch::nn::LSTMOptions(64, 64).batch_first(true)));
    layer_norm =
        register_module("layer_norm", torch::nn::LayerNorm(torch::nn::LayerNormOptions({64})));
    batch_norm = register_module("batch_norm", torch::nn::BatchNorm2d(8));
    last = register_module("last", torch::nn::Linear(64, 64));
  }
  Tensor run(const std::string& layer, const Tensor& x) {
    if (layer == "linear") return linear(x);
    if (layer == "conv") return conv(x.view({4, 8, 8, 8})).flatten(1).view({32, 64});
    if (layer == "lstm") return std::get<0>(lstm->forward(x.view({4, 8, 64}))).reshape({32, 64});
    if (layer == "layer_norm") return layer_norm(x);
    return batch_norm(x.view({4, 8, 8, 8})).view({32, 64});
  }
  void fill(const std::string& parameter, double value) {
    const torch::NoGradGuard no_grad;
    named_parameters()[parameter].fill_(value);
  }
  torch::nn::Linear linear{nullptr}, last{nullptr};
  torch::nn::Conv2d conv{nullptr};
  torch::nn::LSTM lstm{nullptr};
  torch::nn::LayerNorm layer_norm{nullptr};
  torch::nn::BatchNorm2d batch_norm{nullptr};
};

struct LayerFault {
  const char* layer;
  const char* parameter;
};

class LibTorchLayers : public test::FastCpuGemmsTest {
 protected:
  static Tensor input() {
    torch::manual_seed(12);
    return torch::randn({32, 64}).abs() + 1;
  }
  static std::optional<NonFiniteOrigin> found(Layers& layers, const std::string& layer,
                                              double factor) {
    const Tensor x = input();
    return find_first_non_finite(layers, [&] {
      Tensor out;
      {
        const Autocast autocast(torch::kCPU, torch::kHalf);
        out = layers.run(layer, layers.last(x));
      }
      return (out.to(torch::kFloat) * factor).sum();
    });
  }
};

TEST_P(LibTorchLayers, OverflowForward) {
  for (const auto& [layer, parameter] :
       {LayerFault{"linear", "linear.weight"}, LayerFault{"conv", "conv.weight"}}) {
    Layers layers;
    layers.fill("last.weight", 1);
    layers.fill(parameter, 6e4);
    const auto origin = found(layers, layer, 1.0);
    ASSERT_TRUE(origin.has_value()) << layer;
    EXPECT_EQ(origin->kind, Kind::kForward) << described(*origin);
    EXPECT_EQ(origin->site.module, layer) << described(*origin);
    EXPECT_THAT(origin->site.parameters, Contains(parameter)) << described(*origin);
    EXPECT_EQ(origin->diagnosis.cause, Cause::kOverflow) << described(*origin);
    EXPECT_EQ(origin->diagnosis.format, torch::kHalf) << described(*origin);
    EXPECT_TRUE(origin->diagnosis.largest.has_value()) << described(*origin);
  }
}

// The norms compute in fp32: it is the cast of their result to the next layer's format.
TEST_P(LibTorchLayers, OverflowBehindANorm) {
  for (const char* layer : {"layer_norm", "batch_norm"}) {
    Layers layers;
    const std::string weight = std::string(layer) + ".weight";
    layers.fill(weight, 1e5);
    const Tensor x = input();
    const auto origin = find_first_non_finite(layers, [&] {
      const Autocast autocast(torch::kCPU, torch::kHalf);
      return layers.last(layers.run(layer, x)).to(torch::kFloat).sum();
    });
    ASSERT_TRUE(origin.has_value()) << layer;
    EXPECT_EQ(origin->kind, Kind::kForward) << described(*origin);
    EXPECT_EQ(origin->diagnosis.cause, Cause::kOverflow) << described(*origin);
    EXPECT_EQ(origin->diagnosis.format, torch::kHalf) << described(*origin);
    EXPECT_EQ(origin->site.module, "last") << described(*origin);
    EXPECT_EQ(origin->site.operation, "aten::copy_") << described(*origin);
  }
}

// An LSTM's gates are bounded: only its gradients overflow.
TEST_P(LibTorchLayers, OverflowBackward) {
  for (const auto& [layer, parameter] :
       {LayerFault{"linear", "linear.weight"}, LayerFault{"conv", "conv.weight"},
        LayerFault{"lstm", "lstm.weight_ih_l0"}}) {
    Layers layers;
    layers.fill("last.weight", 0);
    layers.fill("last.bias", 0);
    layers.fill(parameter, 6e4);
    const auto origin = found(layers, layer, /*factor=*/1e3);
    ASSERT_TRUE(origin.has_value()) << layer;
    EXPECT_EQ(origin->kind, Kind::kBackward) << described(*origin);
    EXPECT_EQ(origin->site.module, layer) << described(*origin);
    EXPECT_EQ(origin->diagnosis.cause, Cause::kOverflow) << described(*origin);
    EXPECT_EQ(origin->diagnosis.format, torch::kHalf) << described(*origin);
    EXPECT_NE(origin->site.forward, "") << described(*origin);
  }
}

INSTANTIATE_TEST_SUITE_P(Ways, LibTorchLayers, testing::Values("native", "upcast"));

TEST(LibTorchNorms, OverflowWithHalfWeights) {
  for (const char* layer : {"layer_norm", "batch_norm"}) {
    Layers layers;
    layers.to(torch::kHalf);
    layers.fill(std::string(layer) + ".weight", 6e4);
    const Tensor x = torch::randn({32, 64}).to(torch::kHalf);
    const auto origin =
        find_first_non_finite(layers, [&] { return layers.run(layer, x).to(torch::kFloat).sum(); });
    ASSERT_TRUE(origin.has_value()) << layer;
    EXPECT_EQ(origin->kind, Kind::kForward) << described(*origin);
    EXPECT_EQ(origin->site.module, layer) << described(*origin);
    EXPECT_EQ(origin->diagnosis.cause, Cause::kOverflow) << described(*origin);
    EXPECT_TRUE(origin->diagnosis.largest.has_value()) << described(*origin);
  }
}

}  // namespace
}  // namespace halftone::injected_faults_test
