// SPDX-License-Identifier: Apache-2.0
#include "halftone/autocast/custom_function.h"

#include <ATen/autocast_mode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <thread>

#include "halftone/autocast/autocast.h"

namespace halftone::custom_function_test {
namespace {

using testing::HasSubstr;
using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct Seen {
  bool enabled = false;
  torch::ScalarType dtype = torch::kFloat;
  torch::ScalarType product = torch::kFloat;
};
Seen in_forward;
Seen in_backward;

Seen look(const Tensor& x, const Tensor& w) {
  return {at::autocast::is_autocast_enabled(torch::kCPU),
          at::autocast::get_autocast_dtype(torch::kCPU), torch::mm(x, w).scalar_type()};
}

std::string message_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const c10::Error& error) {
    return error.what_without_backtrace();
  }
  return "no error";
}

/// x W, as a user would write it.
template <class Base>
struct ProductOf : Base {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& w) {
    const auto region = custom_fwd(ctx, x.device().type());
    in_forward = look(x, w);
    ctx->save_for_backward({x, w});
    return torch::mm(x, w);
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto region = custom_bwd(ctx);
    const variable_list saved = ctx->get_saved_variables();
    in_backward = look(saved[0], saved[1]);
    return {torch::mm(grads[0], saved[1].t()), torch::mm(saved[0].t(), grads[0])};
  }
};
struct Product : ProductOf<torch::autograd::Function<Product>> {};

/// x W in fp32 wherever it is called.
struct WideProduct : torch::autograd::Function<WideProduct> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x_in, const Tensor& w_in) {
    const auto region = custom_fwd(ctx, torch::kCPU, torch::kFloat);
    const Tensor x = region.cast(x_in);
    const Tensor w = region.cast(w_in);
    in_forward = look(x, w);
    ctx->save_for_backward({x, w});
    return torch::mm(x, w);
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto region = custom_bwd(ctx);
    const variable_list saved = ctx->get_saved_variables();
    in_backward = look(saved[0], saved[1]);
    return {torch::mm(grads[0], saved[1].t()), torch::mm(saved[0].t(), grads[0])};
  }
};

struct Undeclared : AutocastFunction<Undeclared> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x) {
    ctx->save_for_backward({x});
    return x * 2;
  }
  static variable_list backward(AutogradContext*, const variable_list& grads) {
    return {grads[0] * 2};
  }
};

struct Declared : AutocastFunction<Declared> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x) {
    const auto region = custom_fwd(ctx, x.device().type());
    return x * 2;
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto region = custom_bwd(ctx);
    return {grads[0] * 2};
  }
};

/// Calls a declared one without being declared itself.
struct Outer : AutocastFunction<Outer> {
  static Tensor forward(AutogradContext*, const Tensor& x) { return Declared::apply(x); }
  static variable_list backward(AutogradContext*, const variable_list& grads) { return grads; }
};

struct Forgetful : torch::autograd::Function<Forgetful> {
  static Tensor forward(AutogradContext*, const Tensor& x) { return x * 2; }
  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto region = custom_bwd(ctx);
    return {grads[0] * 2};
  }
};

Tensor leaf(std::int64_t rows, std::int64_t columns) {
  return torch::randn({rows, columns}).requires_grad_();
}

TEST(CustomFunction, BackwardRunsUnderTheForwardsAutocast) {
  for (const auto dtype : {torch::kBFloat16, torch::kHalf}) {
    const Tensor x = leaf(3, 4);
    const Tensor w = leaf(4, 4);
    Tensor y;
    {
      const Autocast autocast(torch::kCPU, dtype);
      y = Product::apply(x, w);
    }
    EXPECT_EQ(y.scalar_type(), dtype);
    EXPECT_TRUE(in_forward.enabled);
    y.sum().backward();
    EXPECT_TRUE(in_backward.enabled);
    EXPECT_EQ(in_backward.dtype, dtype);
    EXPECT_EQ(in_backward.product, dtype);
    EXPECT_EQ(x.grad().scalar_type(), torch::kFloat);
    EXPECT_FALSE(at::autocast::is_autocast_enabled(torch::kCPU));
    EXPECT_EQ(at::autocast::get_autocast_dtype(torch::kCPU), torch::kBFloat16);
  }
}

TEST(CustomFunction, BackwardInsideARegionFollowsTheForwardNotTheRegion) {
  const Tensor x = leaf(3, 4);
  const Tensor w = leaf(4, 4);
  const Tensor y = Product::apply(x, w);
  const Autocast autocast(torch::kCPU, torch::kHalf);
  y.sum().backward();
  EXPECT_FALSE(in_backward.enabled);
  EXPECT_EQ(in_backward.product, torch::kFloat);
  EXPECT_TRUE(at::autocast::is_autocast_enabled(torch::kCPU));
}

// A new thread starts with the default dtype, as LibTorch's own threads for other devices do.
TEST(CustomFunction, BackwardInAnotherThreadHasTheForwardsDtype) {
  const Tensor x = leaf(3, 4);
  const Tensor w = leaf(4, 4);
  Tensor y;
  {
    const Autocast autocast(torch::kCPU, torch::kHalf);
    y = Product::apply(x, w);
  }
  bool default_before = false;
  bool default_after = false;
  std::thread([&] {
    default_before = at::autocast::get_autocast_dtype(torch::kCPU) == torch::kBFloat16;
    y.sum().backward();
    default_after = at::autocast::get_autocast_dtype(torch::kCPU) == torch::kBFloat16 &&
                    !at::autocast::is_autocast_enabled(torch::kCPU);
  }).join();
  EXPECT_TRUE(default_before);
  EXPECT_TRUE(default_after);
  EXPECT_TRUE(in_backward.enabled);
  EXPECT_EQ(in_backward.dtype, torch::kHalf);
  EXPECT_EQ(in_backward.product, torch::kHalf);
}

TEST(CustomFunction, CastInputsRunsWithoutAutocastUnderAutocast) {
  const Tensor x = leaf(3, 4);
  const Tensor w = leaf(4, 4);
  Tensor y;
  {
    const Autocast autocast(torch::kCPU, torch::kBFloat16);
    y = WideProduct::apply(x.to(torch::kBFloat16), w);
    EXPECT_TRUE(at::autocast::is_autocast_enabled(torch::kCPU));
  }
  EXPECT_EQ(y.scalar_type(), torch::kFloat);
  EXPECT_FALSE(in_forward.enabled);
  EXPECT_EQ(in_forward.product, torch::kFloat);
  y.sum().backward();
  EXPECT_FALSE(in_backward.enabled);
  EXPECT_EQ(in_backward.product, torch::kFloat);
}

TEST(CustomFunction, CastInputsIsIgnoredOutsideAutocast) {
  const Tensor x = torch::randn({3, 4}, torch::kBFloat16);
  EXPECT_EQ(WideProduct::apply(x, torch::randn({4, 4}, torch::kBFloat16)).scalar_type(),
            torch::kBFloat16);
  const Autocast autocast(torch::kCPU, torch::kBFloat16);
  const Tensor wide = torch::randn({4, 4}, torch::kDouble);
  EXPECT_EQ(WideProduct::apply(wide, wide).scalar_type(), torch::kDouble);  // never cast
}

// What a checkpoint does: the backward runs the forward again and differentiates it.
struct Checkpointed : torch::autograd::Function<Checkpointed> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& w) {
    const auto region = custom_fwd(ctx, torch::kCPU);
    ctx->save_for_backward({x, w});
    return torch::mm(torch::mm(x, w), w);
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const variable_list saved = ctx->get_saved_variables();
    const Tensor x = saved[0].detach().requires_grad_();
    const Tensor w = saved[1].detach().requires_grad_();
    Tensor y;
    {
      const auto region = custom_bwd(ctx);
      const torch::AutoGradMode grad(true);
      y = torch::mm(torch::mm(x, w), w);
    }
    y.backward(grads[0]);
    return {x.grad(), w.grad()};
  }
};

TEST(CustomFunction, RecomputedForwardEqualsTheFirst) {
  torch::manual_seed(1);
  const Tensor w = leaf(4, 4);
  const Tensor x = leaf(3, 4);
  const auto gradients = [&](bool checkpointed) {
    w.mutable_grad() = Tensor();
    x.mutable_grad() = Tensor();
    Tensor y;
    {
      const Autocast autocast(torch::kCPU, torch::kHalf);
      y = checkpointed ? Checkpointed::apply(x, w) : torch::mm(torch::mm(x, w), w);
    }
    y.sum().backward();
    return variable_list{y.detach(), x.grad(), w.grad()};
  };
  const variable_list plain = gradients(false);
  const variable_list again = gradients(true);
  for (std::size_t i = 0; i < plain.size(); ++i) EXPECT_TRUE(plain[i].equal(again[i])) << i;
}

TEST(CustomFunction, CustomBwdNeedsCustomFwd) {
  const Tensor x = leaf(2, 2);
  const Tensor y = Forgetful::apply(x);
  EXPECT_THAT(message_of([&] { y.sum().backward(); }),
              HasSubstr("expected a forward() that begins with custom_fwd(ctx, device)"));
}

TEST(CustomFunction, UndeclaredOnesAreRefusedUnderAutocastOnly) {
  const Tensor x = leaf(2, 2);
  EXPECT_TRUE(Undeclared::apply(x).equal(x * 2));
  const Autocast autocast(torch::kCPU, torch::kBFloat16);
  EXPECT_THAT(message_of([&] { Undeclared::apply(x); }),
              HasSubstr("Undeclared::forward ran under autocast"));
  EXPECT_TRUE(Declared::apply(x).equal(x * 2));
  EXPECT_THAT(message_of([&] { Outer::apply(x); }), HasSubstr("Outer::forward"));
  EXPECT_TRUE(Declared::apply(x).equal(x * 2));
}

}  // namespace
}  // namespace halftone::custom_function_test
