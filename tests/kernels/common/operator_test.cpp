// SPDX-License-Identifier: Apache-2.0
// The operators as LibTorch's dispatcher has them: one record for a call, the same shapes without
// data, definitions where there is no kernel, and a second copy of the library beside this one.
#include <dlfcn.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <cstdint>
#include <functional>
#include <string>
#include <tuple>
#include <vector>

#include "halftone/kernels/attention/decode_attention.h"
#include "halftone/kernels/attention/rotary_attention.h"
#include "halftone/kernels/common/operator_impl.h"
#include "halftone/kernels/fused/cross_entropy.h"
#include "halftone/kernels/fused/embedding.h"
#include "halftone/kernels/fused/rms_norm.h"
#include "halftone/kernels/fused/swiglu.h"
#include "halftone/kernels/gemm/gemm32.h"
#include "halftone/kernels/gemm/int8_gemm.h"
#include "halftone/kernels/gemm/matvec.h"
#include "halftone/kernels/linear/linear.h"
#include "halftone/kernels/linear/linear_cross_entropy.h"
#include "halftone/kernels/optimizer/gradient_exponents.h"
#include "halftone/kernels/optimizer/gradient_stats.h"
#include "halftone/kernels/optimizer/layer_summary.h"
#include "halftone/kernels/optimizer/moments.h"
#include "support/operations_in.h"
#include "support/paths.h"
#include "support/stand_in_device.h"

namespace halftone::operator_test {
namespace {

using test::operations_in;
using testing::Contains;
using testing::ElementsAre;
using testing::Not;
using torch::Tensor;
using Tensors = std::vector<Tensor>;

std::vector<std::string> ours_in(const std::function<void()>& work) {
  std::vector<std::string> names = operations_in(work);
  std::erase_if(names, [](const std::string& name) { return !name.starts_with("halftone"); });
  return names;
}

c10::OperatorHandle operator_of(const std::string& name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name.c_str(), "");
}

TEST(Operators, AreRecordedOnceForACall) {
  const Tensor x = torch::randn({2, 8}, torch::requires_grad());
  const Tensor weight = torch::ones({8}, torch::requires_grad());
  EXPECT_THAT(ours_in([&] { swiglu(x); }), ElementsAre("halftone::swiglu"));
  EXPECT_THAT(ours_in([&] { rms_norm(x, weight, 1e-5); }), ElementsAre("halftone::rms_norm"));
  EXPECT_THAT(ours_in([&] { swiglu(x).sum().backward(); }),
              ElementsAre("halftone::swiglu", "halftone::swiglu_gradient"));
  const torch::NoGradGuard no_grad;
  EXPECT_THAT(ours_in([&] { swiglu(x); }), ElementsAre("halftone::swiglu"));
}

TEST(Operators, RunTheirDefinitionsOnADeviceWithoutKernels) {
  if (!test::has_stand_in()) GTEST_SKIP() << "a CUDA build has no stand-in for a GPU";
  const Tensor x = torch::randn({2, 8}).to(test::stand_in_device());
  const std::vector<std::string> seen = operations_in([&] { swiglu(x); });
  EXPECT_THAT(seen, Contains("halftone::swiglu"));
  EXPECT_THAT(seen, Contains("aten::silu"));
  EXPECT_THAT(operations_in([&] { swiglu(x.cpu()); }), Not(Contains("aten::silu")));
}

// ---- without data

/// One call: what it makes of `inputs`.
struct Call {
  const char* name;
  Tensors inputs;
  std::function<Tensors(const Tensors&)> compute;
};

std::vector<Call> differentiable_calls() {
  const auto floats = [](torch::IntArrayRef shape) {
    return torch::randn(shape, torch::requires_grad());
  };
  const Tensor ids = torch::tensor({{1, 4, 1}}, torch::kLong);
  const Tensor rotations = torch::ones({5, 4}, torch::kComplexFloat);
  return {
      {"rms_norm",
       {floats({3, 8}), floats({8})},
       [](const Tensors& in) { return Tensors{rms_norm(in[0], in[1], 1e-5)}; }},
      {"add_rms_norm",
       {floats({3, 8}), floats({3, 8}), floats({8})},
       [](const Tensors& in) {
         const NormedSum made =
             add_rms_norm(in[0], in[1].to(torch::kBFloat16), in[2], 1e-5, torch::kBFloat16);
         return Tensors{made.sum, made.normed};
       }},
      {"swiglu", {floats({3, 8})}, [](const Tensors& in) { return Tensors{swiglu(in[0])}; }},
      {"embedding",
       {floats({6, 8}), ids},
       [](const Tensors& in) { return Tensors{halftone::embedding(in[0], in[1])}; }},
      {"rotary_attention",
       {floats({2, 5, 32}), rotations},
       [](const Tensors& in) {
         return Tensors{rotary_attention(in[0], in[1], {2, 1})};
       }},
      {"linear",
       {floats({2, 3, 8}), floats({5, 8}), floats({4, 8})},
       [](const Tensors& in) {
         return Tensors{merged_linear(in[0], {in[1], in[2]})};
       }},
  };
}

Tensors without_data(const Tensors& tensors) {
  Tensors bare;
  for (const Tensor& tensor : tensors)
    bare.push_back(tensor.detach().to(torch::kMeta).requires_grad_(tensor.requires_grad()));
  return bare;
}

void expect_alike(const Tensors& made, const Tensors& bare, const std::string& what) {
  ASSERT_EQ(made.size(), bare.size()) << what;
  for (std::size_t i = 0; i < made.size(); ++i) {
    ASSERT_EQ(made[i].defined(), bare[i].defined()) << what << " " << i;
    if (!made[i].defined()) continue;
    EXPECT_TRUE(bare[i].is_meta()) << what << " " << i;
    EXPECT_EQ(made[i].sizes(), bare[i].sizes()) << what << " " << i;
    EXPECT_EQ(made[i].strides(), bare[i].strides()) << what << " " << i;
    EXPECT_EQ(made[i].scalar_type(), bare[i].scalar_type()) << what << " " << i;
  }
}

Tensors gradients_of(const Call& call, const Tensors& inputs) {
  Tensors leaves;
  for (const Tensor& input : inputs)
    if (input.requires_grad()) leaves.push_back(input);
  Tensor sum;
  for (const Tensor& output : call.compute(inputs)) {
    const Tensor part = output.to(torch::kFloat).sum();
    sum = sum.defined() ? sum + part : part;
  }
  return torch::autograd::grad({sum}, leaves);
}

TEST(Operators, MakeTheSameWithoutData) {
  for (const Call& call : differentiable_calls()) {
    const Tensors bare = without_data(call.inputs);
    expect_alike(call.compute(call.inputs), call.compute(bare), call.name);
    expect_alike(gradients_of(call, call.inputs), gradients_of(call, bare),
                 std::string("gradients of ") + call.name);
    const std::string name = call.name == std::string("add_rms_norm") ? "rms_norm" : call.name;
    EXPECT_EQ(ours_in([&] { call.compute(bare); }), ours_in([&] { call.compute(call.inputs); }))
        << name;
  }
}

TEST(Operators, MakeTheSameWithoutDataWhereNothingIsRecorded) {
  const torch::NoGradGuard no_grad;
  const Tensor flat = torch::randn({600});
  const Tensor codes = torch::zeros({600}, torch::kByte);
  const Tensor scales = torch::ones({moment_scales(600)});
  const Tensor heads = torch::randn({1, 2, 1, 8}), keys = torch::randn({1, 2, 3, 8});
  const std::vector<Call> calls = {
      {"cross_entropy",
       {torch::randn({3, 5}), torch::tensor({1, 0, 4}), torch::ones({3})},
       [](const Tensors& in) { return Tensors{row_cross_entropy(in[0], in[1], in[2])}; }},
      {"cross_entropy_to_gradient",
       {torch::randn({3, 5}), torch::tensor({1, 0, 4}), torch::ones({3})},
       [](const Tensors& in) {
         Tensor logits = in[0].clone();
         return Tensors{row_cross_entropy_to_gradient(logits, in[1], in[2]), logits};
       }},
      {"linear_cross_entropy",
       {torch::randn({3, 8}), torch::randn({5, 8}), torch::tensor({1, 0, 4}), torch::ones({3})},
       [](const Tensors& in) { return Tensors{linear_cross_entropy(in[0], in[1], in[2], in[3])}; }},
      {"decode_attention",
       {heads, keys, keys},
       [](const Tensors& in) {
         return Tensors{decode_attention(in[0], in[1], in[2], torch::kFloat)};
       }},
      {"gemm32",
       {torch::randn({3, 8}), torch::randn({8, 5})},
       [](const Tensors& in) { return Tensors{gemm32(in[0], in[1])}; }},
      {"gradient_stats",
       {flat},
       [](const Tensors& in) {
         const RangeStats stats = gradient_stats(in[0], {{0, 100}, {100, 600}});
         return Tensors{stats.norm_squared, stats.non_finite};
       }},
      {"exponent_histogram",
       {flat},
       [](const Tensors& in) { return Tensors{exponent_histogram(in[0])}; }},
      {"gradient_summary",
       {flat},
       [](const Tensors& in) {
         return Tensors{gradient_summary(in[0], format_floor(torch::kHalf))};
       }},
      {"update_summary",
       {flat},
       [](const Tensors& in) { return Tensors{update_summary(in[0], in[0], in[0])}; }},
      {"decoded_moments",
       {codes, scales},
       [](const Tensors& in) { return Tensors{decoded_moments(in[0], in[1], Moment::kFirst)}; }},
  };
  for (const Call& call : calls)
    expect_alike(call.compute(call.inputs), call.compute(without_data(call.inputs)), call.name);
}

TEST(Operators, MultiplyInInt8WithoutData) {
  const torch::NoGradGuard no_grad;
  const Tensor left = torch::randn({3, 8}, torch::kMeta),
               right = torch::randn({5, 8}, torch::kMeta);
  const Tensor product = int8_gemm(quantize_left(left, {}), quantize_right(right, {}));
  EXPECT_TRUE(product.is_meta());
  EXPECT_EQ(product.sizes(), torch::IntArrayRef({3, 5}));
}

// Meta goes before every device, so a tensor without data would be taken for one that has some.
TEST(Operators, RefuseTensorsWithDataBesideThoseWithout) {
  const Tensor x = torch::randn({2, 8}), weight = torch::ones({8}, torch::kMeta);
  const torch::NoGradGuard no_grad;
  EXPECT_THROW(rms_norm(x, weight, 1e-5), c10::Error);
  EXPECT_THROW(halftone::linear(x, torch::ones({3, 8}, torch::kMeta)), c10::Error);
  EXPECT_THROW(
      halftone::embedding(x, torch::zeros({3}, torch::dtype(torch::kLong).device(torch::kMeta))),
      c10::Error);
}

// What a Python program can call checks what it is given, where C++ callers have checked before.
TEST(Operators, CheckShapesThemselves) {
  const auto swiglu_gradient =
      operator_of("halftone::swiglu_gradient")
          .typed<std::tuple<Tensor, Tensor>(const Tensor&, const Tensor&, bool)>();
  EXPECT_THROW(swiglu_gradient.call(torch::ones({1000, 1000}), torch::ones({1, 8}), false),
               c10::Error);
  const auto embedding_gradient = operator_of("halftone::embedding_gradient")
                                      .typed<Tensor(const Tensor&, const Tensor&, std::int64_t)>();
  EXPECT_THROW(embedding_gradient.call(torch::ones({1, 4}), torch::zeros({1000}, torch::kLong), 1),
               c10::Error);
  EXPECT_THROW(
      rotary_attention(torch::zeros({1, 2, 8}), torch::ones({2, 1}, torch::kComplexFloat), {-4, 2}),
      c10::Error);
}

// ---- another copy of the library

TEST(OperatorsLibrary, HasNamesOfItsOwnBesideThisCopy) {
  EXPECT_EQ(operator_namespace(), "halftone");
  ASSERT_NE(dlopen(test::kOperatorsLibrary, RTLD_NOW | RTLD_LOCAL), nullptr) << dlerror();
  const Tensor x = torch::randn({2, 8}, torch::requires_grad());
  const auto swiglu_of = [](const std::string& space) {
    return operator_of(space + "::swiglu").typed<Tensor(const Tensor&)>();
  };
  Tensor theirs;
  EXPECT_THAT(ours_in([&] { theirs = swiglu_of("halftone_2").call(x); }),
              ElementsAre("halftone_2::swiglu"));
  EXPECT_TRUE(theirs.equal(swiglu(x)));
  theirs.sum().backward();
  EXPECT_TRUE(x.grad().defined());
}

}  // namespace
}  // namespace halftone::operator_test
