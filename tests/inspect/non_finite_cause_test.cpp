// SPDX-License-Identifier: Apache-2.0
// Why an operation makes inf or nan: each cause is provoked by one operation, and what is said of
// it is held against numbers that the test computes itself.
#include "halftone/inspect/non_finite_cause.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/nn/functional/normalization.h>
#include <torch/nn/module.h>

#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "halftone/autocast/autocast.h"
#include "halftone/inspect/non_finite_finder.h"
#include "halftone/kernels/attention/rotary_attention.h"
#include "halftone/kernels/fused/embedding.h"
#include "halftone/kernels/fused/rms_norm.h"
#include "halftone/kernels/fused/swiglu.h"
#include "halftone/kernels/linear/linear.h"
#include "halftone/nn/rope.h"

namespace halftone::non_finite_cause_test {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;
using torch::Tensor;
using Kind = NonFiniteOrigin::Kind;
using Cause = NonFiniteCause;

constexpr float kInf = std::numeric_limits<float>::infinity();

TEST(TensorFacts, CountWhatIsThere) {
  const Tensor x = torch::tensor({1.F, 0.F, -7.F, kInf, 0.F, NAN}).reshape({2, 3});
  const TensorFacts facts = facts_of(x.to(torch::kHalf));
  EXPECT_EQ(facts.dtype, torch::kHalf);
  EXPECT_THAT(facts.shape, ElementsAre(2, 3));
  EXPECT_EQ(facts.max_abs, 7.0);
  EXPECT_EQ(facts.non_finite, 2);
  EXPECT_EQ(facts.zeros, 2);
  EXPECT_THAT(facts.first_non_finite, ElementsAre(1, 0));
  EXPECT_EQ(to_string(facts), " fp16 [2, 3] up to 7, 2 not finite, the first at [1, 0]");
}

TEST(TensorFacts, TakeEveryTensor) {
  EXPECT_THAT(facts_of(torch::zeros({0, 4})).shape, ElementsAre(0, 4));
  EXPECT_EQ(facts_of(torch::tensor({-9, 3})).max_abs, 9.0);
  EXPECT_EQ(facts_of(torch::tensor({true, false})).zeros, 1);
  EXPECT_EQ(facts_of(torch::tensor(kInf)).non_finite, 1);
  EXPECT_THAT(facts_of(torch::tensor(kInf)).first_non_finite, IsEmpty());
  EXPECT_EQ(facts_of(torch::tensor({448.F, 3.F}).to(torch::kFloat8_e4m3fn)).max_abs, 448.0);
  EXPECT_EQ(facts_of(torch::complex(torch::tensor({3.F}), torch::tensor({4.F}))).max_abs, 5.0);
  // Not dense: the index is that of the view.
  const Tensor t = torch::tensor({1.F, NAN, 3.F, 4.F}).reshape({2, 2}).t();
  EXPECT_THAT(facts_of(t).first_non_finite, ElementsAre(1, 0));
}

TEST(LargestNumber, IsThatOfTheFormat) {
  EXPECT_EQ(largest_number(torch::kHalf), 65504.0);
  EXPECT_EQ(largest_number(torch::kBFloat16), 0x1.FEp127);
  EXPECT_EQ(largest_number(torch::kFloat), 0x1.FFFFFEp127);
  EXPECT_EQ(largest_number(torch::kFloat8_e5m2), 57344.0);
}

// ---- one operation, by its function

struct Net : torch::nn::Module {
  explicit Net(const Tensor& value) : x(register_parameter("x", value.clone())) {}
  Tensor x;
};

struct Case {
  std::string name;
  Tensor x;
  std::function<Tensor(const Tensor&)> function;
  std::string operation;
  Cause cause;
  double largest = 0;       // of an overflow
  std::string detail = {};  // of others: part of it
};

void PrintTo(const Case& one, std::ostream* out) { *out << one.name; }
std::string name_of_case(const testing::TestParamInfo<Case>& info) { return info.param.name; }

Tensor numbers(std::vector<float> values) { return torch::tensor(values); }

std::vector<Case> forward_cases() {
  const Tensor zeros = numbers({2, 0, 3});
  return {
      {"exp", numbers({1, 100}), [](const Tensor& x) { return x.exp(); }, "aten::exp",
       Cause::kOverflow, std::exp(100.0)},
      {"exp_beyond_fp64", numbers({1, 1000}), [](const Tensor& x) { return x.exp(); }, "aten::exp",
       Cause::kOverflow, kInf},
      {"square", numbers({1, -3e20F}), [](const Tensor& x) { return x.square(); }, "aten::pow",
       Cause::kOverflow, 9e40},
      {"sum", torch::full({100}, 3e38F), [](const Tensor& x) { return x.sum(); }, "aten::sum",
       Cause::kOverflow, 3e40},
      {"small_divisor", numbers({1}), [](const Tensor& x) { return x / 1e-39F; }, "aten::div",
       Cause::kOverflow, 1e39},
      {"cast", numbers({1, -1e5F}), [](const Tensor& x) { return x.to(torch::kHalf); },
       "aten::copy_", Cause::kOverflow, 1e5},
      {"bf16_cast", numbers({1, 3.4e38F}), [](const Tensor& x) { return x.to(torch::kBFloat16); },
       "aten::copy_", Cause::kOverflow, 3.4e38},
      {"fp16_product", numbers({300, 2}),
       [](const Tensor& x) { return x.to(torch::kHalf) * x.to(torch::kHalf); }, "aten::mul",
       Cause::kOverflow, 9e4},
      {"double", numbers({1, 800}), [](const Tensor& x) { return x.to(torch::kDouble).exp(); },
       "aten::exp", Cause::kOverflow, kInf},
      {"log", zeros, [](const Tensor& x) { return x.log(); }, "aten::log", Cause::kLogOfZero, 0,
       "1 of the 3 values of the input is 0"},
      {"log2", zeros, [](const Tensor& x) { return x.log2(); }, "aten::log2", Cause::kLogOfZero},
      {"log10", zeros, [](const Tensor& x) { return x.log10(); }, "aten::log10", Cause::kLogOfZero},
      {"log_in_place", zeros, [](const Tensor& x) { return (x * 1).log_(); }, "aten::log_",
       Cause::kLogOfZero, 0, "1 of the 3 values of the input is 0"},
      {"log1p", numbers({2, -1}), [](const Tensor& x) { return x.log1p(); }, "aten::log1p",
       Cause::kLogOfZero, 0, "is -1"},
      {"xlogy", zeros, [](const Tensor& x) { return torch::xlogy(x + 1, x); }, "aten::xlogy",
       Cause::kLogOfZero},
      {"logit", numbers({0.5, 1}), [](const Tensor& x) { return torch::logit(x); }, "aten::logit",
       Cause::kLogOfZero},
      {"div", zeros, [](const Tensor& x) { return 1 / x; }, "aten::div_", Cause::kDivisionByZero},
      {"zero_by_zero", zeros, [](const Tensor& x) { return x / x; }, "aten::div",
       Cause::kDivisionByZero, 0, "of 'other'"},
      {"div_by_number", zeros, [](const Tensor& x) { return x / 0.0; }, "aten::div",
       Cause::kDivisionByZero, 0, "'other' is 0"},
      {"div_in_place", zeros, [](const Tensor& x) { return (x + 1).div_(x.detach()); },
       "aten::div_", Cause::kDivisionByZero},
      {"reciprocal", zeros, [](const Tensor& x) { return x.reciprocal(); }, "aten::reciprocal",
       Cause::kDivisionByZero},
      {"rsqrt", zeros, [](const Tensor& x) { return x.rsqrt(); }, "aten::rsqrt",
       Cause::kDivisionByZero},
      {"power", zeros, [](const Tensor& x) { return x.pow(-2); }, "aten::pow",
       Cause::kDivisionByZero},
      {"power_of_tensors", zeros,
       [](const Tensor& x) { return torch::pow(x, torch::full({3}, -0.5F)); }, "aten::pow",
       Cause::kDivisionByZero},
      {"norm_of_a_constant_row", torch::ones({2, 4}),
       [](const Tensor& x) { return torch::layer_norm(x, {4}, {}, {}, /*eps=*/0.0); },
       "aten::native_layer_norm", Cause::kDivisionByZero, 0, "a variance of 0"},
      {"mean_of_nothing", numbers({1}), [](const Tensor& x) { return x.narrow(0, 0, 0).mean(); },
       "aten::div_", Cause::kDivisionByZero, 0, "'other' is 0"},
      {"variance_of_one", numbers({1}), [](const Tensor& x) { return x.var(); }, "aten::var",
       Cause::kDivisionByZero},
      {"sqrt", numbers({4, -1}), [](const Tensor& x) { return x.sqrt(); }, "aten::sqrt",
       Cause::kInvalid, 0, "the root of a negative number"},
      {"log_of_negative", numbers({4, -1}), [](const Tensor& x) { return x.log(); }, "aten::log",
       Cause::kInvalid, 0, "the logarithm of a negative number"},
      {"power_of_negative", numbers({4, -1}), [](const Tensor& x) { return x.pow(0.5); },
       "aten::pow", Cause::kInvalid},
      {"acos", numbers({0, 2}), [](const Tensor& x) { return x.acos(); }, "aten::acos",
       Cause::kInvalid},
      {"masked_row", torch::ones({2, 4}),
       [](const Tensor& x) {
         Tensor mask = torch::zeros({2, 4});
         mask[1].fill_(-kInf);
         return (x + mask).softmax(-1);
       },
       "aten::_softmax", Cause::kInvalid, 0, "-inf throughout"},
      {"filled", torch::ones({2, 4}),
       [](const Tensor& x) {
         return x.masked_fill(torch::ones({2, 4}).gt(0), kInf);
       },
       "aten::masked_fill_", Cause::kOther, 0, "it writes a number that is not finite"},
      {"pole", numbers({0}), [](const Tensor& x) { return x.lgamma(); }, "aten::lgamma",
       Cause::kOther, 0, "infinite"},
  };
}

/// What the search finds where the loss is the sum of the function of x.
NonFiniteOrigin origin_of(const Net& net, const std::function<Tensor(const Tensor&)>& function) {
  const auto found =
      find_first_non_finite(net, [&] { return function(net.x).to(torch::kDouble).sum(); });
  EXPECT_TRUE(found.has_value());
  return found.value_or(NonFiniteOrigin());
}

void expect_case(const Case& one, const NonFiniteOrigin& origin) {
  EXPECT_EQ(origin.site.operation, one.operation) << to_string(origin);
  EXPECT_EQ(to_string(origin.diagnosis.cause), to_string(one.cause)) << to_string(origin);
  if (one.cause == Cause::kOverflow) {
    ASSERT_TRUE(origin.diagnosis.largest.has_value()) << to_string(origin);
    if (std::isinf(one.largest))
      EXPECT_EQ(*origin.diagnosis.largest, one.largest) << to_string(origin);
    else
      EXPECT_NEAR(*origin.diagnosis.largest / one.largest, 1.0, 1e-3) << to_string(origin);
  }
  EXPECT_THAT(origin.diagnosis.detail, HasSubstr(one.detail));
  if (one.name == "masked_row") return;
  for (const TensorFacts& facts : origin.diagnosis.inputs)
    EXPECT_EQ(facts.non_finite, 0) << to_string(origin);
}

class ForwardCause : public testing::TestWithParam<Case> {};

TEST_P(ForwardCause, IsFound) {
  const Net net(GetParam().x);
  const NonFiniteOrigin origin = origin_of(net, GetParam().function);
  EXPECT_EQ(origin.kind, Kind::kForward);
  expect_case(GetParam(), origin);
}

INSTANTIATE_TEST_SUITE_P(Every, ForwardCause, testing::ValuesIn(forward_cases()), name_of_case);

/// A gradient of 1e30, then one of that times 1e30.
struct Explode : torch::autograd::Function<Explode> {
  static Tensor forward(torch::autograd::AutogradContext*, const Tensor& x) { return x.clone(); }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext*,
                                                 const torch::autograd::variable_list& g) {
    return {g[0] * 2e30 * 3e30};
  }
};

std::vector<Case> backward_cases() {
  const Tensor zeros = numbers({2, 0, 3});
  return {
      {"sqrt", zeros, [](const Tensor& x) { return x.sqrt(); }, "aten::div",
       Cause::kDivisionByZero},
      {"power", zeros, [](const Tensor& x) { return x.pow(0.5); }, "aten::pow",
       Cause::kDivisionByZero},
      {"acos", numbers({0, 1}), [](const Tensor& x) { return x.acos(); }, "aten::rsqrt",
       Cause::kDivisionByZero},
      {"norm", numbers({0, 0}), [](const Tensor& x) { return x.square().sum().sqrt(); },
       "aten::div", Cause::kDivisionByZero},
      {"custom", numbers({1, 2}), [](const Tensor& x) { return Explode::apply(x); }, "aten::mul",
       Cause::kOverflow, 6e60},
      {"fp16", numbers({1, 2}),
       [](const Tensor& x) { return x.to(torch::kHalf).to(torch::kFloat) * 1e6; }, "aten::copy_",
       Cause::kOverflow, 1e6},
  };
}

class BackwardCause : public testing::TestWithParam<Case> {};

TEST_P(BackwardCause, IsFound) {
  const Net net(GetParam().x);
  const NonFiniteOrigin origin = origin_of(net, GetParam().function);
  EXPECT_EQ(origin.kind, Kind::kBackward) << to_string(origin);
  EXPECT_EQ(origin.gradient, "x");
  expect_case(GetParam(), origin);
}

INSTANTIATE_TEST_SUITE_P(Every, BackwardCause, testing::ValuesIn(backward_cases()), name_of_case);

// ---- what was there before

TEST(NonFiniteCause, TellsInputsAsTheyWereBefore) {
  const Net net(numbers({3e20F, -4e20F}));
  const NonFiniteOrigin origin = origin_of(net, [](const Tensor& x) {
    Tensor y = x * 1;
    return y.mul_(x.detach());
  });
  ASSERT_THAT(origin.diagnosis.inputs, SizeIs(2));
  EXPECT_EQ(origin.diagnosis.inputs[0].name, "self");
  EXPECT_FLOAT_EQ(origin.diagnosis.inputs[0].max_abs, 4e20F);
  EXPECT_EQ(origin.diagnosis.inputs[1].parameter, "x");
  EXPECT_NEAR(*origin.diagnosis.largest / 1.6e41, 1.0, 1e-3);
  EXPECT_EQ(
      to_string(origin),
      "aten::mul_ with 'x' makes the first non-finite value of the forward pass: it overflows "
      "fp32, which ends at 3.40282e+38: the largest result would be 1.6e+41; inputs: input "
      "fp32 [2] up to 4e+20; 'x' fp32 [2] up to 4e+20");
}

TEST(NonFiniteCause, FindsTheRowOfBadData) {
  const Net net(torch::ones({3}));
  const auto found = find_first_non_finite(net, [&] {
    Tensor batch = torch::ones({4, 3});
    batch.data_ptr<float>()[7] = NAN;  // from outside of LibTorch's operations
    return (batch * net.x).sum();
  });
  ASSERT_TRUE(found.has_value());
  EXPECT_EQ(found->kind, Kind::kInput);
  EXPECT_EQ(found->diagnosis.cause, Cause::kBadData);
  EXPECT_THAT(to_string(*found), HasSubstr("it came in with the data: 1 of 12 values, the first at "
                                           "[2, 1], in row 2"));
}

TEST(NonFiniteCause, NamesABuffer) {
  struct WithBuffer : Net {
    WithBuffer() : Net(torch::ones({3})) {
      table = register_buffer("table", torch::ones({3}));
      table.data_ptr<float>()[1] = kInf;
    }
    Tensor table;
  } net;
  const auto found = find_first_non_finite(net, [&] { return (net.table * net.x).sum(); });
  ASSERT_TRUE(found.has_value());
  EXPECT_THAT(to_string(*found), HasSubstr("the buffer 'table': 1 of 3 values, the first at [1]"));
}

TEST(NonFiniteCause, CountsBadWeights) {
  Net net(torch::ones({2, 3}));
  {
    const torch::NoGradGuard no_grad;
    net.x[1][2] = NAN;
    net.x[1][1] = kInf;
  }
  const auto found = find_first_non_finite(net, [&] { return net.x.sum(); });
  ASSERT_TRUE(found.has_value());
  EXPECT_EQ(found->diagnosis.cause, Cause::kBadWeights);
  EXPECT_EQ(to_string(*found),
            "the parameter 'x' is not finite itself: 2 of 6 values, the first at [1, 1]");
}

// A mask that leaves something in each row is no fault, whoever made it.
TEST(NonFiniteCause, LeavesMasksAlone) {
  const Net net(torch::ones({2, 4}));
  const auto found = find_first_non_finite(net, [&] {
    Tensor mask = torch::zeros({2, 4});
    mask.data_ptr<float>()[2] = -kInf;
    return (net.x + mask).softmax(-1).square().sum();
  });
  EXPECT_FALSE(found.has_value()) << to_string(*found);
}

TEST(NonFiniteCause, LeavesTheGeneratorAlone) {
  const Net net(torch::full({64}, 3e38F));
  Tensor mask;
  const auto loss = [&] {
    torch::manual_seed(3);
    const Tensor y = torch::dropout(net.x, 0.9, /*train=*/true);  // times ten: it overflows
    mask = torch::rand({8});
    return y.sum();
  };
  loss();
  const Tensor expected = mask;
  const auto found = find_first_non_finite(net, loss);
  ASSERT_TRUE(found.has_value());
  EXPECT_EQ(found->diagnosis.cause, Cause::kOverflow) << to_string(*found);
  EXPECT_TRUE(mask.equal(expected));
}

// ---- this library's operations, against the same formulas in fp64

/// The largest absolute gradient, by LibTorch's autograd in fp64.
double largest_gradient(const Tensor& x, const std::function<Tensor(const Tensor&)>& function) {
  const Tensor wide = x.detach().to(torch::kDouble).requires_grad_();
  return torch::autograd::grad({function(wide).sum()}, {wide})[0].abs().max().item<double>();
}

void expect_overflow(const NonFiniteOrigin& origin, const std::string& operation, double largest) {
  EXPECT_EQ(origin.site.operation, operation) << to_string(origin);
  EXPECT_EQ(origin.diagnosis.cause, Cause::kOverflow) << to_string(origin);
  ASSERT_TRUE(origin.diagnosis.largest.has_value()) << to_string(origin);
  EXPECT_NEAR(*origin.diagnosis.largest / largest, 1.0, 1e-3) << to_string(origin);
}

TEST(OwnOperationsCause, TellsHowFarANormOverflows) {
  torch::manual_seed(1);
  const Tensor weight = torch::full({8}, 3e38F);
  const Net net(torch::randn({4, 8}));
  const NonFiniteOrigin origin =
      origin_of(net, [&](const Tensor& x) { return rms_norm(x, weight, 1e-5); });
  const Tensor wide = net.x.detach().to(torch::kDouble);
  const Tensor normed = wide * (wide.square().mean(-1, true) + 1e-5).rsqrt() * 3e38;
  expect_overflow(origin, "halftone::rms_norm", normed.abs().max().item<double>());
}

TEST(OwnOperationsCause, TellsHowFarTheGradientOfANormOverflows) {
  torch::manual_seed(2);
  const Tensor weight = torch::randn({8}) * 1e36F;
  const Net net(torch::randn({4, 8}) * 1e-20F);
  const Tensor factors = torch::randn({4, 8}) * 10;
  const NonFiniteOrigin origin =
      origin_of(net, [&](const Tensor& x) { return rms_norm(x, weight, 1e-5) * factors; });
  const double largest = largest_gradient(net.x, [&](const Tensor& x) {
    return x * (x.square().mean(-1, true) + 1e-5).rsqrt() * weight * factors;
  });
  expect_overflow(origin, "halftone::rms_norm_gradient", largest);
  EXPECT_EQ(origin.kind, Kind::kBackward);
}

TEST(OwnOperationsCause, TellsANormOfZeros) {
  const Net net(torch::zeros({4, 8}));
  const NonFiniteOrigin origin =
      origin_of(net, [](const Tensor& x) { return rms_norm(x, torch::ones({8}), 0.0); });
  EXPECT_EQ(origin.site.operation, "halftone::rms_norm");
  EXPECT_EQ(to_string(origin.diagnosis.cause), "division by zero") << to_string(origin);
}

TEST(OwnOperationsCause, TellsHowFarSwigluOverflows) {
  const Net net(torch::tensor({{1e25F, 2e20F}, {3.F, 4.F}}));
  const NonFiniteOrigin origin = origin_of(net, [](const Tensor& x) { return swiglu(x); });
  expect_overflow(origin, "halftone::swiglu", 2e45);
}

TEST(OwnOperationsCause, TellsHowFarTheGradientOfSwigluOverflows) {
  const Net net(torch::tensor({{1e-3F, 1e17F}, {2.F, 4.F}}));
  const auto function = [](const Tensor& x) { return swiglu(x) * 1e22; };
  const NonFiniteOrigin origin = origin_of(net, function);
  const double largest = largest_gradient(net.x, [](const Tensor& x) {
    const std::vector<Tensor> parts = x.chunk(2, -1);
    return torch::silu(parts[0]) * parts[1] * 1e22;
  });
  EXPECT_EQ(origin.kind, Kind::kBackward);
  expect_overflow(origin, "halftone::swiglu_gradient", largest);
}

/// Causal attention of one head of two numbers, in fp64; rope turns a pair by its step.
Tensor attention_by_hand(const Tensor& qkv) {
  const std::vector<Tensor> parts = qkv.chunk(3, -1);
  const std::int64_t steps = qkv.size(1);
  const auto turned = [&](const Tensor& x) {
    const Tensor angle = torch::arange(steps, torch::kDouble);
    const Tensor a = x.select(-1, 0), b = x.select(-1, 1);
    return torch::stack({a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()}, -1);
  };
  const Tensor scores = turned(parts[0]).matmul(turned(parts[1]).transpose(1, 2)) / std::sqrt(2.0);
  const Tensor mask = torch::full({steps, steps}, -kInf, torch::kDouble).triu(1);
  return (scores + mask).softmax(-1).matmul(parts[2]);
}

TEST(OwnOperationsCause, TellsHowFarTheGradientOfAttentionOverflows) {
  torch::manual_seed(4);
  Tensor qkv = torch::randn({2, 5, 6});
  // The gradient of the queries grows with the keys and the values, the result with the values.
  qkv.narrow(-1, 0, 2).mul_(1e-3);
  qkv.narrow(-1, 2, 2).mul_(1e3);
  qkv.narrow(-1, 4, 2).mul_(1e20);
  const Net net(qkv);
  RopeTable table(2, 10000.0);
  const Tensor rotations = table.rows(0, 5, torch::kCPU);
  const NonFiniteOrigin origin = origin_of(net, [&](const Tensor& x) {
    return rotary_attention(x, rotations, {.heads = 1, .kv_heads = 1}) * 1e17;
  });
  const double largest =
      largest_gradient(net.x, [](const Tensor& x) { return attention_by_hand(x) * 1e17; });
  EXPECT_EQ(origin.kind, Kind::kBackward);
  expect_overflow(origin, "halftone::rotary_attention_gradient", largest);
}

TEST(OwnOperationsCause, TellsHowFarTheGradientOfAnEmbeddingOverflows) {
  const Net net(torch::ones({4, 2}));
  const Tensor ids = torch::zeros({3, 5}, torch::kLong);
  const NonFiniteOrigin origin =
      origin_of(net, [&](const Tensor& x) { return halftone::embedding(x, ids) * 1e38F; });
  expect_overflow(origin, "halftone::embedding_gradient", 15e38);
}

TEST(OwnOperationsCause, TellsHowFarALayerOverflows) {
  torch::manual_seed(5);
  const Net net(torch::randn({16, 64}) * 1e4);
  const Tensor rows = torch::randn({8, 64});
  const NonFiniteOrigin origin = origin_of(net, [&](const Tensor& x) {
    const Autocast autocast(torch::kCPU, torch::kHalf);
    return halftone::linear(rows, x);
  });
  const auto fp16 = [](const Tensor& x) { return x.detach().to(torch::kHalf).to(torch::kDouble); };
  EXPECT_EQ(origin.diagnosis.format, torch::kHalf);
  expect_overflow(origin, origin.site.operation,
                  fp16(rows).mm(fp16(net.x).t()).abs().max().item<double>());
  EXPECT_EQ(origin.site.within, "halftone::linear");
}

}  // namespace
}  // namespace halftone::non_finite_cause_test
