// SPDX-License-Identifier: Apache-2.0
#include "halftone/inspect/autocast_check.h"

#include <ATen/Functions.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <stdexcept>
#include <string>
#include <vector>

#include "halftone/autocast/custom_function.h"
#include "halftone/kernels/linear/linear.h"
#include "halftone/nn/rms_norm.h"

namespace halftone::autocast_check_test {
namespace {

using testing::HasSubstr;
using testing::Not;
using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using Tensors = std::vector<Tensor>;

/// Findings of `fault` at `where`.
std::size_t count(const AutocastReport& report, AutocastFault fault, const std::string& where) {
  return static_cast<std::size_t>(std::count_if(
      report.findings.begin(), report.findings.end(),
      [&](const auto& finding) { return finding.fault == fault && finding.where == where; }));
}

Tensors matrices() {
  torch::manual_seed(1);
  return {torch::randn({5, 16}), torch::randn({7, 16})};
}

TEST(CheckAutocastSafe, PassesOperatorsThatAre) {
  const auto matmul = [](const Tensors& x) { return torch::mm(x[0], x[1].t()); };
  const AutocastReport report = check_autocast_safe(matmul, matrices());
  EXPECT_TRUE(report.safe()) << report.to_string();
  EXPECT_EQ(report.measurements.size(), 2U * 3U * 3U);  // dtypes, inputs, output and two gradients
  for (const AutocastMeasurement& m : report.measurements) {
    EXPECT_GT(m.error, 0.0);
    EXPECT_LT(m.error, m.allowed);
  }
  EXPECT_TRUE(
      check_autocast_safe([](const Tensors& x) { return halftone::linear(x[0], x[1]); }, matrices())
          .safe());
  const auto norm = [](const Tensors& x) { return rms_norm(x[0], x[1], 1e-5); };
  const AutocastReport normed =
      check_autocast_safe(norm, {torch::randn({5, 16}), torch::rand({16})});
  EXPECT_TRUE(normed.safe()) << normed.to_string();
}

struct Product : torch::autograd::Function<Product> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& w) {
    const auto region = custom_fwd(ctx, torch::kCPU);
    ctx->save_for_backward({x, w});
    return torch::mm(x, w.t());
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto region = custom_bwd(ctx);
    const variable_list saved = ctx->get_saved_variables();
    return {torch::mm(grads[0], saved[1]), torch::mm(grads[0].t(), saved[0])};
  }
};

/// Matmul without the two lines.
struct BareProduct : torch::autograd::Function<BareProduct> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& w) {
    ctx->save_for_backward({x, w});
    return torch::mm(x, w.t());
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const variable_list saved = ctx->get_saved_variables();
    return {torch::mm(grads[0], saved[1]), torch::mm(grads[0].t(), saved[0])};
  }
};

TEST(CheckAutocastSafe, TellsDeclaredFunctionsFromUndeclaredOnes) {
  const AutocastReport declared = check_autocast_safe(
      [](const Tensors& x) { return Tensor(Product::apply(x[0], x[1])); }, matrices());
  EXPECT_TRUE(declared.safe()) << declared.to_string();
  const AutocastReport bare = check_autocast_safe(
      [](const Tensors& x) { return Tensor(BareProduct::apply(x[0], x[1])); }, matrices());
  EXPECT_EQ(count(bare, AutocastFault::kError, "backward"), 4U);  // not where all are 16-bit
  EXPECT_THAT(bare.to_string(), HasSubstr("not safe under autocast\n  bf16 autocast, fp32 inputs, "
                                          "backward: "));
  EXPECT_THAT(bare.to_string(), HasSubstr("dtype"));
}

// What a loop over raw memory does with a tensor that came out of a 16-bit layer.
Tensor doubled_by_hand(const Tensor& x) {
  const Tensor y = torch::empty_like(x);
  const float* const from = x.data_ptr<float>();
  float* const to = y.data_ptr<float>();
  for (std::int64_t i = 0; i < x.numel(); ++i) to[i] = 2 * from[i];
  return y;
}

template <bool kCast>
struct Doubled : torch::autograd::Function<Doubled<kCast>> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x) {
    const auto region = custom_fwd(
        ctx, torch::kCPU, kCast ? std::optional(torch::kFloat) : std::optional<c10::ScalarType>());
    return doubled_by_hand(region.cast(x));
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto region = custom_bwd(ctx);
    return {grads[0] * 2};
  }
};

TEST(CheckAutocastSafe, FindsRawPointersToFloat) {
  const Tensors x{torch::rand({4, 3})};
  const AutocastReport raw = check_autocast_safe(
      [](const Tensors& in) { return Tensor(Doubled<false>::apply(in[0])); }, x);
  EXPECT_EQ(count(raw, AutocastFault::kError, "forward"), 4U);
  EXPECT_THAT(raw.findings[0].message, HasSubstr("expected scalar type Float but found BFloat16"));
  EXPECT_THAT(raw.findings[0].message, Not(HasSubstr("\n")));
  const AutocastReport cast =
      check_autocast_safe([](const Tensors& in) { return Tensor(Doubled<true>::apply(in[0])); }, x);
  EXPECT_TRUE(cast.safe()) << cast.to_string();
}

TEST(CheckAutocastSafe, FindsOverflowOfTheExponentialInFp16Only) {
  const auto exponential = [](const Tensors& x) { return x[0].exp(); };
  const AutocastReport report =
      check_autocast_safe(exponential, {torch::tensor({1.0F, 12.0F, 3.0F})});
  EXPECT_EQ(count(report, AutocastFault::kOverflow, "output 0"), 2U) << report.to_string();
  for (const AutocastFinding& finding : report.findings) EXPECT_EQ(finding.dtype, torch::kHalf);
  EXPECT_THAT(report.to_string(), HasSubstr("1 of 3 values are infinite or NaN; the largest of "
                                            "them is 1.63e+05 in fp32"));
}

TEST(CheckAutocastSafe, FindsOverflowInTheBackwardAlone) {
  struct Steep : torch::autograd::Function<Steep> {
    static Tensor forward(AutogradContext*, const Tensor& x) { return x * 1.0; }
    static variable_list backward(AutogradContext*, const variable_list& grads) {
      return {grads[0] * 1e6};
    }
  };
  const AutocastReport report = check_autocast_safe(
      [](const Tensors& x) { return Tensor(Steep::apply(x[0])); }, {torch::rand({4})});
  EXPECT_EQ(count(report, AutocastFault::kOverflow, "output 0"), 0U);
  EXPECT_EQ(count(report, AutocastFault::kOverflow, "gradient of input 0"), 2U);
}

TEST(CheckAutocastSafe, FindsCatastrophicCancellation) {
  torch::manual_seed(2);
  const Tensors x{torch::randn({64, 32}) + 10};
  const auto variance = [](const Tensors& in) {
    return in[0].square().mean(-1) - in[0].mean(-1).square();
  };
  const AutocastReport report = check_autocast_safe(variance, x);
  EXPECT_GE(count(report, AutocastFault::kAccuracy, "output 0"), 2U) << report.to_string();
  // The same number without the cancellation.
  const auto stable = [](const Tensors& in) {
    const Tensor wide = in[0].to(torch::kFloat);
    return (wide - wide.mean(-1, true)).square().mean(-1);
  };
  const AutocastReport good = check_autocast_safe(stable, x);
  EXPECT_TRUE(good.safe()) << good.to_string();
}

// The difference of two close inputs is ill-conditioned in any format.
TEST(CheckAutocastSafe, DoesNotBlameTheOperatorForItsInputsRounding) {
  torch::manual_seed(3);
  const Tensor x = torch::rand({50}) + 1;
  const AutocastReport report = check_autocast_safe([](const Tensors& in) { return in[0] - in[1]; },
                                                    {x, x + torch::randn({50}) * 1e-3});
  EXPECT_TRUE(report.safe()) << report.to_string();
}

TEST(CheckAutocastSafe, FindsWrongResults) {
  const Tensors x{torch::rand({4})};
  const auto result_of = [&](const TensorFunction& fn) {
    return check_autocast_safe(fn, x).to_string();
  };
  EXPECT_THAT(result_of([](const Tensors& in) {
                return in[0].scalar_type() == torch::kFloat ? in[0] * 2 : in[0].to(torch::kDouble);
              }),
              HasSubstr("output 0: expected fp32 or bf16, got Double"));
  EXPECT_THAT(result_of([](const Tensors& in) {
                return in[0].scalar_type() == torch::kFloat ? in[0] * 2 : in[0].detach();
              }),
              HasSubstr("gradient of input 0: expected one as in fp32, got none"));
  EXPECT_THAT(result_of([](const Tensors& in) {
                return in[0].scalar_type() == torch::kFloat ? in[0] * 2 : in[0].unsqueeze(0);
              }),
              HasSubstr("expected shape [4] as in fp32, got [1, 4]"));
}

TEST(CheckAutocastSafe, ManyOutputsAndIntegerInputs) {
  torch::manual_seed(4);
  const TensorsFunction gather = [](const Tensors& in) {
    return Tensors{in[0].index_select(0, in[1]), in[0].square(), in[1]};
  };
  const AutocastReport report =
      check_autocast_safe(gather, {torch::rand({4, 3}), torch::tensor({2, 0}, torch::kLong)});
  EXPECT_TRUE(report.safe()) << report.to_string();
  EXPECT_EQ(report.measurements.size(), 2U * 3U * 3U);  // two outputs and one gradient
}

TEST(CheckAutocastSafe, SaysWhenAnInputItselfOverflows) {
  const AutocastReport report = check_autocast_safe([](const Tensors& in) { return in[0] * in[1]; },
                                                    {torch::rand({2}), torch::full({2}, 1e5F)});
  ASSERT_EQ(report.findings.size(), 1U) << report.to_string();
  EXPECT_EQ(report.findings[0].dtype, torch::kHalf);
  EXPECT_EQ(report.findings[0].where, "input 1");
}

TEST(CheckAutocastSafe, RefusesMisuseAndPassesFp32ErrorsOn) {
  const auto identity = [](const Tensors& in) { return in[0] * 1; };
  EXPECT_THROW(check_autocast_safe(identity, {torch::ones({2}, torch::kLong)}), c10::Error);
  EXPECT_THROW(check_autocast_safe(identity, {torch::ones({2}, torch::kHalf)}), c10::Error);
  EXPECT_THROW(check_autocast_safe(identity, {torch::ones({2})}, {.dtypes = {torch::kDouble}}),
               c10::Error);
  const auto broken = [](const Tensors&) -> Tensor { throw std::runtime_error("always"); };
  EXPECT_THROW(check_autocast_safe(broken, {torch::ones({2})}), std::runtime_error);
}

}  // namespace
}  // namespace halftone::autocast_check_test
