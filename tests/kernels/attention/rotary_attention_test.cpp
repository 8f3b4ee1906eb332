// SPDX-License-Identifier: Apache-2.0
#include "halftone/kernels/attention/rotary_attention.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <utility>

#include "halftone/kernels/gemm/brgemm_bf16.h"
#include "halftone/kernels/gemm/cpu_gemm_config.h"
#include "halftone/nn/rope.h"
#include "support/fused_op.h"
#include "support/instruction_sets.h"
#include "support/on_devices.h"

namespace halftone::rotary_attention_test {
namespace {

using torch::Tensor;
using Tensors = std::vector<Tensor>;

struct Case {
  std::int64_t batch, steps, heads, kv_heads, size;
};

// Rotates by hand, repeats keys, masks, and takes the softmax, in fp64.
test::Operation formula_of(const Case& c, const Tensor& rotations) {
  return [c, rotations](const Tensors& in) {
    const Tensor split = in[0].unflatten(-1, {-1, c.size}).transpose(1, 2);  // (B, heads, T, d)
    const Tensor table = at::view_as_real(rotations).to(torch::kDouble);     // (T, d / 2, 2)
    const auto rotate = [&](const Tensor& x) {
      const Tensor pairs = x.unflatten(-1, {-1, 2});
      const Tensor a = pairs.select(-1, 0), b = pairs.select(-1, 1);
      const Tensor cosine = table.select(-1, 0), sine = table.select(-1, 1);
      return at::stack({a * cosine - b * sine, a * sine + b * cosine}, -1).flatten(-2);
    };
    const std::int64_t group = c.heads / c.kv_heads;
    const Tensor q = rotate(split.narrow(1, 0, c.heads));
    const Tensor k = rotate(split.narrow(1, c.heads, c.kv_heads)).repeat_interleave(group, 1);
    const Tensor v = split.narrow(1, c.heads + c.kv_heads, c.kv_heads).repeat_interleave(group, 1);
    const Tensor scores = q.matmul(k.transpose(-1, -2)) / std::sqrt(static_cast<double>(c.size));
    const Tensor hidden = torch::ones({c.steps, c.steps}, q.options().dtype(torch::kBool)).triu(1);
    const Tensor weights =
        scores.masked_fill(hidden, -std::numeric_limits<double>::infinity()).softmax(-1);
    return Tensors{weights.matmul(v).transpose(1, 2).flatten(2)};
  };
}

test::Operation fused_of(const Case& c, const Tensor& rotations) {
  return [c, rotations](const Tensors& in) {
    return Tensors{rotary_attention(in[0], rotations, {c.heads, c.kv_heads})};
  };
}

Tensor rotations_of(const Case& c) { return RopeTable(c.size, 1e4).rows(3, c.steps, torch::kCPU); }

Tensor projections(const Case& c) {
  return torch::randn({c.batch, c.steps, (c.heads + 2 * c.kv_heads) * c.size});
}

/// Restores the choice that was in force.
class PathScope {
 public:
  explicit PathScope(const char* path) : before_(cpu_gemm_config()) {
    set_cpu_gemm_config(parse_cpu_gemm_config(path));
  }
  ~PathScope() { set_cpu_gemm_config(before_); }

 private:
  CpuGemmConfig before_;
};

using RotaryAttentionOn = test::OnDevices;
HALFTONE_ON_DEVICES(RotaryAttentionOn);

TEST_P(RotaryAttentionOn, EqualsTheFormulaOnOddSizesInEveryDtype) {
  torch::manual_seed(1);
  const Case cases[] = {{1, 1, 1, 1, 2},  {2, 5, 4, 2, 6},    {1, 65, 4, 1, 16},
                        {2, 64, 2, 2, 8}, {1, 130, 8, 2, 64}, {3, 37, 6, 3, 10},
                        {2, 1, 8, 2, 64}, {1, 33, 3, 1, 34}};
  test::for_each_instruction_set([&] {
    for (const Case& c : cases) {
      const Tensor rotations = here(rotations_of(c));
      for (const auto dtype : {torch::kFloat, torch::kBFloat16, torch::kHalf}) {
        // The definition keeps 16-bit softmax weights in some of LibTorch's kernels.
        const double tolerance = dtype == torch::kFloat ? 4e-6 : 3 * test::tolerance_of(dtype);
        const Tensor qkv = here(projections(c).to(dtype));
        for (const char* path : {"native", "upcast"}) {
          const PathScope scope(path);
          test::expect_equals_definition(fused_of(c, rotations), formula_of(c, rotations), {qkv},
                                         tolerance);
        }
      }
    }
  });
}

TEST(RotaryAttention, GradientsAreTheSlopesOfTheFormula) {
  torch::manual_seed(11);
  const Case c{1, 5, 4, 2, 4};
  const Tensor rotations = rotations_of(c);
  test::expect_gradients_are_slopes(fused_of(c, rotations), formula_of(c, rotations),
                                    {projections(c)}, 1e-5);
}

TEST_P(RotaryAttentionOn, EqualsItsDefinitionInLibTorchsOperations) {
  torch::manual_seed(2);
  const Case c{2, 70, 8, 2, 32};
  const Tensor rotations = here(rotations_of(c)), qkv = here(projections(c));
  const auto reference = [&](const Tensors& in) {
    return Tensors{rotary_attention_reference(in[0], rotations.cpu(), {c.heads, c.kv_heads})};
  };
  const test::ValuesAndGradients ours = test::differentiate(fused_of(c, rotations), {qkv});
  const test::ValuesAndGradients theirs = test::differentiate(reference, {qkv.cpu()});
  EXPECT_LT(test::relative_error(ours.values[0], theirs.values[0]), 2e-6);
  EXPECT_LT(test::relative_error(ours.gradients[0], theirs.gradients[0]), 4e-6);
}

TEST(RotaryAttention, ProductsOfBf16AreAsExactAsLibTorchs) {
  if (!has_brgemm_bf16()) GTEST_SKIP() << "no bf16 matmuls on this machine";
  torch::manual_seed(5);
  const PathScope scope("native");
  const Case c{2, 150, 8, 2, 64};
  const Tensor rotations = rotations_of(c), qkv = projections(c).to(torch::kBFloat16);
  const auto composed = [&](const Tensors& in) {
    return Tensors{rotary_attention_reference(in[0], rotations, {c.heads, c.kv_heads})};
  };
  const auto exact = test::differentiate(formula_of(c, rotations), {qkv.to(torch::kDouble)});
  const auto ours = test::differentiate(fused_of(c, rotations), {qkv});
  const auto theirs = test::differentiate(composed, {qkv});
  EXPECT_LT(test::relative_error(ours.values[0], exact.values[0]),
            1.1 * test::relative_error(theirs.values[0], exact.values[0]));
  for (const auto& [first, heads] : {std::pair{0, c.heads}, {8, c.kv_heads}, {10, c.kv_heads}}) {
    const auto part = [&, from = first, count = heads](const test::ValuesAndGradients& of) {
      return of.gradients[0].narrow(-1, from * c.size, count * c.size);
    };
    EXPECT_LT(test::relative_error(part(ours), part(exact)),
              1.1 * test::relative_error(part(theirs), part(exact)))
        << "from head " << first;
  }
}

TEST(RotaryAttention, TakesProductsOfBf16WhereTheChoiceSaysSo) {
  if (!has_brgemm_bf16()) GTEST_SKIP() << "no bf16 matmuls on this machine";
  torch::manual_seed(6);
  const Case c{1, 40, 4, 2, 16};
  const Tensor rotations = rotations_of(c), qkv = projections(c).to(torch::kBFloat16);
  const auto run = [&](const char* path) {
    const PathScope scope(path);
    return test::differentiate(fused_of(c, rotations), {qkv});
  };
  const auto upcast = run("upcast"), native = run("native");
  EXPECT_FALSE(native.values[0].equal(upcast.values[0]));
  EXPECT_FALSE(native.gradients[0].equal(upcast.gradients[0]));
  const auto forward = run("bf16.forward=native"), backward = run("bf16.input_gradient=native");
  EXPECT_TRUE(forward.values[0].equal(native.values[0]));
  EXPECT_FALSE(forward.gradients[0].equal(native.gradients[0]));
  EXPECT_TRUE(backward.values[0].equal(upcast.values[0]));
  EXPECT_FALSE(backward.gradients[0].equal(upcast.gradients[0]));
  at::globalContext().setUserEnabledMkldnn(false);  // which takes LibTorch's matmuls away
  const auto without = run("native");
  at::globalContext().setUserEnabledMkldnn(true);
  EXPECT_TRUE(without.values[0].equal(upcast.values[0]));
}

struct Variant {
  torch::ScalarType dtype;
  const char* path;
};
constexpr Variant kVariants[] = {
    {torch::kFloat, "upcast"}, {torch::kBFloat16, "upcast"}, {torch::kBFloat16, "native"}};

TEST_P(RotaryAttentionOn, LargeScoresDoNotOverflow) {
  torch::manual_seed(8);
  const Case c{1, 9, 2, 1, 8};
  const Tensor rotations = here(rotations_of(c));
  for (const Variant& variant : kVariants) {
    const PathScope scope(variant.path);
    // bf16 rounds the rotated queries and keys: their scores are some 1e5, off by hundreds.
    const bool wide = variant.dtype == torch::kFloat;
    const Tensor qkv = here((projections(c) * 100).to(variant.dtype));
    const test::ValuesAndGradients out = test::differentiate(fused_of(c, rotations), {qkv});
    EXPECT_TRUE(out.values[0].isfinite().all().item<bool>());
    EXPECT_TRUE(out.gradients[0].isfinite().all().item<bool>());
    EXPECT_LT(
        test::relative_error(out.values[0], formula_of(c, rotations)({qkv.to(torch::kDouble)})[0]),
        wide ? 1e-3 : 0.2);
  }
}

TEST(RotaryAttention, NonFiniteValuesReachTheQueriesThatSeeThem) {
  torch::manual_seed(7);
  const Case c{1, 20, 2, 1, 4};
  const Tensor rotations = rotations_of(c);
  for (const Variant& variant : kVariants) {
    const PathScope scope(variant.path);
    for (const float bad :
         {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
      for (const std::int64_t column : {8, 12}) {  // a key's, a value's first element
        Tensor qkv = projections(c).to(variant.dtype);
        qkv[0][7][column] = bad;
        const test::ValuesAndGradients out = test::differentiate(fused_of(c, rotations), {qkv});
        // A value that is hidden is multiplied by a weight of 0, which does not undo nan.
        if (column == 8) {
          EXPECT_TRUE(out.values[0][0].narrow(0, 0, 7).isfinite().all().item<bool>());
        }
        // An infinite key gives its queries nan, inf or, where the product is -inf, nothing at all.
        const auto later = [](const Tensor& of) { return of.narrow(1, 7, 13).isfinite(); };
        const Tensor expected = formula_of(c, rotations)({qkv.to(torch::kDouble)})[0];
        EXPECT_TRUE(later(out.values[0]).equal(later(expected))) << column;
        EXPECT_FALSE(later(out.values[0]).all().item<bool>()) << column;
        EXPECT_FALSE(out.gradients[0].isfinite().all().item<bool>());
      }
    }
  }
}

TEST(RotaryAttention, NonFiniteGradientsStayNonFinite) {
  torch::manual_seed(9);
  const Case c{1, 40, 4, 2, 8};
  const Tensor rotations = rotations_of(c);
  for (const Variant& variant : kVariants) {
    const PathScope scope(variant.path);
    const Tensor qkv = projections(c).to(variant.dtype).requires_grad_();
    const Tensor out = rotary_attention(qkv, rotations, {c.heads, c.kv_heads});
    Tensor grad = torch::ones_like(out);
    grad[0][35][0] = std::numeric_limits<float>::infinity();
    const Tensor d_qkv = torch::autograd::grad({out}, {qkv}, {grad})[0];
    const Tensor d_values = d_qkv[0].narrow(1, 6 * c.size, 2 * c.size);
    for (std::int64_t t = 0; t <= 35; ++t)
      EXPECT_FALSE(d_values[t][0].isfinite().item<bool>()) << t;
    EXPECT_FALSE(d_qkv[0][35].narrow(0, 0, c.size).isfinite().any().item<bool>());
    EXPECT_TRUE(d_values.narrow(1, c.size, c.size).isfinite().all().item<bool>());
  }
}

TEST(RotaryAttention, DoesNotDependOnTheNumberOfThreads) {
  torch::manual_seed(3);
  const Case c{2, 90, 4, 2, 16};
  for (const Variant& variant : kVariants) {
    const PathScope scope(variant.path);
    EXPECT_TRUE(test::is_thread_independent(fused_of(c, rotations_of(c)),
                                            {projections(c).to(variant.dtype)}));
  }
}

TEST_P(RotaryAttentionOn, TakesStridedAndEmptyOperands) {
  torch::manual_seed(4);
  const Case c{2, 6, 2, 1, 4};
  const Tensor rotations = here(rotations_of(c));
  const Tensor wide = here(torch::randn({2, 6, 17}));
  test::expect_equals_definition(fused_of(c, rotations), formula_of(c, rotations),
                                 {wide.narrow(2, 1, 16)}, 4e-6);
  EXPECT_EQ(rotary_attention(here(torch::zeros({0, 6, 16})), rotations, {2, 1}).sizes(),
            (std::vector<std::int64_t>{0, 6, 8}));
}

TEST(RotaryAttention, RefusesMisuse) {
  const Tensor rotations = RopeTable(4, 1e4).rows(0, 6, torch::kCPU);
  EXPECT_THROW(rotary_attention(torch::zeros({1, 6, 16}), rotations, {3, 2}), c10::Error);
  EXPECT_THROW(rotary_attention(torch::zeros({1, 6, 15}), rotations, {2, 1}), c10::Error);
  EXPECT_THROW(rotary_attention(torch::zeros({1, 5, 16}), rotations, {2, 1}), c10::Error);
}

}  // namespace
}  // namespace halftone::rotary_attention_test
