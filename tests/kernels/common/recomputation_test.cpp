// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <utility>

#include "halftone/kernels/common/recomputation_impl.h"
#include "halftone/kernels/linear/linear.h"

namespace halftone::recomputation_test {
namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// An operation that the library does not know, registered from its own file.
struct Square : torch::autograd::Function<Square> {
  static variable_list forward(AutogradContext* ctx, const Tensor& x) {
    ctx->save_for_backward({x});
    return {x * x, x + 1};
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    return {grads[0] * 2 * ctx->get_saved_variables()[0] + grads[1]};
  }
};

std::optional<Recomputation> square_again(torch::autograd::CppNode<Square>& node,
                                          std::uint32_t output) {
  if (output != 0) return {};
  return Recomputation{
      .inputs = node.ctx_.get_saved_variables(),
      .compute = [](const variable_list& in, const Tensor&) { return in[0] * in[0]; }};
}

const RegisterRecomputation<Square, square_again> square_registered;

TEST(Recomputation, IsThatOfTheRegisteredOperation) {
  const Tensor x = torch::arange(6, torch::kFloat).requires_grad_();
  const variable_list outputs = Square::apply(x);
  const auto found = recomputation_of(outputs[0]);
  ASSERT_TRUE(found.has_value());
  EXPECT_TRUE(found->compute(found->inputs, {}).equal(outputs[0]));
  EXPECT_FALSE(recomputation_of(outputs[1]).has_value()) << "it is registered for output 0 only";
  EXPECT_FALSE(recomputation_of(x * x).has_value());
  EXPECT_FALSE(recomputation_of(x).has_value());
}

TEST(Recomputation, EndsWithWhatTheOperationKept) {
  const Tensor x = torch::arange(6, torch::kFloat).requires_grad_();
  const Tensor written = Square::apply(x)[0], used = Square::apply(x)[0];
  {
    const torch::NoGradGuard no_grad;
    written.add_(1);
  }
  EXPECT_FALSE(recomputation_of(written).has_value());
  used.sum().backward();
  EXPECT_FALSE(recomputation_of(used).has_value());
}

// A linear layer keeps nothing of an input that can be computed again, whoever made it.
TEST(Recomputation, LinearLayersKeepNothingOfSuchAnInput) {
  const Tensor x = torch::rand({5, 4}).requires_grad_();
  const Tensor weight = torch::rand({3, 4}).requires_grad_();
  const auto kept_after = [&](std::size_t output) {
    Tensor input = Square::apply(x)[output];
    const Tensor y = halftone::linear(input, weight);
    const auto storage = input.storage().getWeakStorageImpl();
    input.reset();
    const bool kept = !storage.expired();
    const Tensor expected = (output == 0 ? x * x : x + 1).detach().sum(0).expand({3, 4});
    EXPECT_TRUE(torch::autograd::grad({y.sum()}, {weight})[0].allclose(expected));
    return kept;
  };
  EXPECT_FALSE(kept_after(0));
  EXPECT_TRUE(kept_after(1));
}

}  // namespace
}  // namespace halftone::recomputation_test
