// SPDX-License-Identifier: Apache-2.0
// An operator of your own under autocast: a torch::autograd::Function that says how it wants its
// inputs, and the check that it is safe before it goes into a model.
#include <halftone/halftone.h>
#include <torch/csrc/autograd/custom_function.h>

#include <cstdio>
#include <exception>
#include <vector>

namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// softplus(x W^T), the weighted sum in autocast's dtype.
struct SoftplusLinear : halftone::AutocastFunction<SoftplusLinear> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& weight) {
    const auto region = halftone::custom_fwd(ctx, x.device().type());
    const Tensor sums = torch::mm(x, weight.t());
    ctx->save_for_backward({x, weight, sums});
    return torch::softplus(sums);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& gradients) {
    const auto region = halftone::custom_bwd(ctx);  // autocast as it was in forward()
    const variable_list saved = ctx->get_saved_variables();
    const Tensor sums_gradient = gradients[0] * torch::sigmoid(saved[2]);
    return {torch::mm(sums_gradient, saved[1]), torch::mm(sums_gradient.t(), saved[0])};
  }
};

/// log(1 + exp(x)) as the formula says it, in whatever dtype comes in.
Tensor careless_softplus(const std::vector<Tensor>& inputs) {
  return torch::log(torch::exp(inputs[0]) + 1);
}

/// The same in fp32: under autocast region.cast() widens what a 16-bit layer hands over.
struct CarefulSoftplus : halftone::AutocastFunction<CarefulSoftplus> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x) {
    const auto region = halftone::custom_fwd(ctx, x.device().type(), torch::kFloat);
    const Tensor wide = region.cast(x);
    ctx->save_for_backward({wide});
    return torch::clamp_min(wide, 0) + torch::log1p(torch::exp(-torch::abs(wide)));
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& gradients) {
    const auto region = halftone::custom_bwd(ctx);
    return {gradients[0] * torch::sigmoid(ctx->get_saved_variables()[0])};
  }
};

bool report(const char* name, const halftone::AutocastReport& result) {
  std::printf("%s: %s\n", name, result.to_string().c_str());
  return result.safe();
}

/// Whether the check judges all three as it should.
bool check_operators() {
  torch::manual_seed(1);
  const Tensor x = torch::randn({8, 32});
  const Tensor weight = torch::randn({16, 32}) / 8;
  const Tensor large = torch::linspace(-20, 20, 41);

  const bool linear_is_safe =
      report("softplus(x W^T)",
             halftone::check_autocast_safe(
                 [](const auto& inputs) { return SoftplusLinear::apply(inputs[0], inputs[1]); },
                 {x, weight}));
  const bool careless_is_safe =
      report("log(1 + exp(x))", halftone::check_autocast_safe(careless_softplus, {large}));
  const bool careful_is_safe =
      report("the same in fp32",
             halftone::check_autocast_safe(
                 [](const auto& inputs) { return CarefulSoftplus::apply(inputs[0]); }, {large}));
  // exp(20) does not fit fp16: the careless one must have been found out.
  return linear_is_safe && !careless_is_safe && careful_is_safe;
}

}  // namespace

int main() {
  try {
    return check_operators() ? 0 : 1;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", halftone::error_text(error).c_str());
    return 1;
  }
}
