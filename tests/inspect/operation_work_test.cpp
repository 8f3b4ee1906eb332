// SPDX-License-Identifier: Apache-2.0
// The flops of operations: LibTorch's against torch.utils.flop_counter, ours against the
// definition.
#include <ATen/Functions.h>
#include <gtest/gtest.h>

#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "halftone/diagnostics/profile/operation_tensors_impl.h"
#include "halftone/diagnostics/profile/tensor_cores.h"
#include "halftone/inspect/operation_work_impl.h"
#include "halftone/kernels/attention/rotary_attention.h"
#include "halftone/kernels/gemm/int8_gemm.h"
#include "halftone/kernels/linear/linear.h"
#include "support/gemm_config_scope.h"
#include "support/paths.h"

namespace halftone::operation_work_test {
namespace {

using nlohmann::json;
using torch::Tensor;

/// Adds up the flops of the operations that no counted one is inside of.
class FlopSum : public OperationObserver {
 public:
  void begin(const OperationCall& /*call*/) override { inside_.push_back(0); }
  void end(const OperationCall& call) override {
    const OperationWork work = operation_work(call);
    const double below = inside_.back();
    inside_.pop_back();
    const double all = below > 0 ? below : work.flops;
    if (below == 0) shapes.insert(shapes.end(), work.matmuls.begin(), work.matmuls.end());
    (inside_.empty() ? flops : inside_.back()) += all;
  }
  double flops = 0;
  std::vector<MatmulShape> shapes;

 private:
  std::vector<double> inside_;
};

template <class Work>
FlopSum observed(const Work& work) {
  const auto sum = std::make_shared<FlopSum>();
  const Observation observation(sum);
  work();
  return *sum;
}

template <class Work>
double flops_in(const Work& work) {
  return observed(work).flops;
}

Tensor call_of(const json& test, const std::vector<Tensor>& t) {
  const std::string op = test.at("op");
  const std::int64_t stride = test.value("stride", 1), padding = test.value("padding", 0);
  if (op == "mm") return at::mm(t[0], t[1]);
  if (op == "addmm") return at::addmm(t[0], t[1], t[2]);
  if (op == "bmm") return at::bmm(t[0], t[1]);
  if (op == "baddbmm") return at::baddbmm(t[0], t[1], t[2]);
  if (op == "linear") return at::linear(t[0], t[1], t[2]);
  if (op == "conv1d") return at::conv1d(t[0], t[1], t[2], stride, padding);
  if (op == "conv2d") return at::conv2d(t[0], t[1], t[2], stride, padding);
  if (op == "conv3d") return at::conv3d(t[0], t[1], t[2], stride, padding);
  if (op == "conv_transpose2d") return at::conv_transpose2d(t[0], t[1], t[2], stride, padding);
  if (op == "attention") return at::scaled_dot_product_attention(t[0], t[1], t[2]);
  throw std::runtime_error("unknown operation " + op);
}

TEST(OperationWork, IsThatOfTorchsFlopCounter) {
  std::ifstream file(std::string(test::kGoldenDir) + "/flops.json");
  const json cases = json::parse(file);
  ASSERT_GE(cases.size(), 10U);
  for (const json& test : cases) {
    std::vector<Tensor> tensors;
    for (const auto& sizes : test.at("sizes"))
      tensors.push_back(
          torch::randn(sizes.get<std::vector<std::int64_t>>(), torch::requires_grad()));
    Tensor result;
    EXPECT_EQ(flops_in([&] { result = call_of(test, tensors); }), test.at("forward").get<double>())
        << test;
    EXPECT_EQ(flops_in([&] { result.sum().backward(); }), test.at("backward").get<double>())
        << test;
  }
}

TEST(OperationWork, CountsTheTriangleOfCausalAttention) {
  const Tensor q = torch::randn({2, 3, 16, 8}, torch::requires_grad());
  Tensor result;
  const double forward = flops_in(
      [&] { result = at::scaled_dot_product_attention(q, q, q, {}, 0.0, /*is_causal=*/true); });
  const double pairs = 2 * 3 * (16 * 17 / 2);
  EXPECT_EQ(forward, 2 * (2 * pairs * 8));
  EXPECT_EQ(flops_in([&] { result.sum().backward(); }), 5 * (2 * pairs * 8));
}

TEST(OperationWork, OfGroupedConvolutionsIsThatOfTheirGroups) {
  const Tensor x = torch::randn({2, 8, 6, 6}), weight = torch::randn({4, 2, 3, 3});
  const FlopSum sum = observed([&] { at::conv2d(x, weight, {}, 1, 1, 1, /*groups=*/4); });
  EXPECT_EQ(sum.flops, 2.0 * (2 * 6 * 6) * 4 * (2 * 3 * 3));
  ASSERT_EQ(sum.shapes.size(), 1U);
  EXPECT_EQ(sum.shapes[0].batch, 4);
  EXPECT_EQ(sum.shapes[0].n, 1);
  EXPECT_EQ(sum.shapes[0].k, 2 * 9);
  EXPECT_EQ(sum.shapes[0].filter, 9);
}

TEST(OperationWork, OfOurLayersIsTheSameOnEveryWay) {
  const Tensor x = torch::randn({6, 40}, torch::requires_grad());
  const Tensor a = torch::randn({24, 40}, torch::requires_grad());
  const Tensor b = torch::randn({8, 40}, torch::requires_grad());
  for (const char* ways : {"blas,native", "blas,upcast"})
    for (const torch::ScalarType dtype : {torch::kFloat, torch::kBFloat16, torch::kHalf}) {
      const test::GemmConfigScope scope(ways);
      const auto in = [&](const Tensor& t) { return t.detach().to(dtype).requires_grad_(); };
      Tensor y;
      const Tensor x_in = in(x), a_in = in(a), b_in = in(b);
      EXPECT_EQ(flops_in([&] {
                  y = merged_linear(x_in, {a_in, b_in});
                }),
                2.0 * 6 * 40 * 32)
          << ways << ", " << dtype;
      EXPECT_EQ(flops_in([&] { y.sum().backward(); }), 2 * (2.0 * 6 * 40 * 32))
          << ways << ", " << dtype;
    }
}

TEST(OperationWork, OfInt8MatmulsCountsWholeGroupsOfFour) {
  const Int8Matrix left = quantize_left(torch::randn({6, 42}), {});
  const Int8Matrix right = quantize_right(torch::randn({10, 42}), {});
  const FlopSum sum = observed([&] { int8_gemm(left, right); });
  const bool in_words = left.sums.defined();  // FBGEMM's
  EXPECT_EQ(sum.flops, 2.0 * 6 * 10 * (in_words ? 44 : 42));
  EXPECT_EQ(sum.shapes.at(0).dtype, torch::kChar);
}

TEST(OperationWork, OfRotaryAttentionIsTheTriangle) {
  constexpr std::int64_t kSteps = 16, kHeads = 4, kSize = 8;
  const Tensor qkv = torch::randn({2, kSteps, (kHeads + 2 * 2) * kSize}, torch::requires_grad());
  const Tensor rotations =
      torch::polar(torch::ones({kSteps, kSize / 2}), torch::rand({kSteps, kSize / 2}));
  Tensor out;
  const double pairs = 2 * kHeads * (kSteps * (kSteps + 1) / 2);
  EXPECT_EQ(flops_in([&] {
              out = rotary_attention(qkv, rotations, {kHeads, 2});
            }),
            2 * (2 * pairs * kSize));
  EXPECT_EQ(flops_in([&] { out.sum().backward(); }), 5 * (2 * pairs * kSize));
}

TEST(OperationWork, OfAllElseIsNothing) {
  const Tensor x = torch::randn({8, 8});
  EXPECT_EQ(flops_in([&] { (x + x).relu().softmax(-1).sum(); }), 0);
}

/// Of the last operation of that name.
struct Moved : OperationObserver {
  explicit Moved(std::string operation) : name(std::move(operation)) {}
  void begin(const OperationCall& /*call*/) override {}
  void end(const OperationCall& call) override {
    if (call.name != name) return;
    bytes = bytes_moved(call);
    cast = is_cast(call);
    dtypes = input_dtypes(call) + ">" + output_dtypes(call);
  }
  std::string name, dtypes;
  double bytes = -1;
  bool cast = false;
};

template <class Work>
Moved moved(const std::string& name, const Work& work) {
  const auto seen = std::make_shared<Moved>(name);
  const Observation observation(seen);
  work();
  return *seen;
}

TEST(OperationTensors, TellWhatMovesAndWhatIsCast) {
  Tensor x = torch::randn({8, 8});
  const Tensor row = torch::randn({8}), half = x.to(torch::kBFloat16);
  EXPECT_EQ(moved("aten::add", [&] { x.add(row); }).bytes, 4 * (64 + 8 + 64));
  EXPECT_EQ(moved("aten::add",
                  [&] {
                    x.add(row.expand({8, 8}));
                  })
                .bytes,
            4 * (64 + 8 + 64))
      << "a row that is shown eight times is read once";
  EXPECT_EQ(moved("aten::add_", [&] { x.add_(row); }).bytes, 4 * (64 + 8 + 64));
  EXPECT_EQ(moved("aten::t", [&] { x.t(); }).bytes, 0);
  EXPECT_EQ(moved("aten::empty", [&] { at::empty({8}); }).bytes, 0);
  EXPECT_EQ(moved("aten::fill_", [&] { x.fill_(1); }).bytes, 4 * 64);
  EXPECT_EQ(moved("aten::embedding",
                  [&] {
                    at::embedding(torch::randn({100, 8}), torch::arange(3));
                  })
                .bytes,
            3 * 4 * (3 * 8))
      << "the rows that were taken, and no others";

  const Moved to_half = moved("aten::copy_", [&] { x.to(torch::kBFloat16); });
  EXPECT_TRUE(to_half.cast);
  EXPECT_EQ(to_half.dtypes, "fp32>bf16");
  EXPECT_EQ(to_half.bytes, 64 * (4 + 2));
  EXPECT_FALSE(moved("aten::copy_", [&] { at::empty({8, 8}).copy_(x); }).cast);
  EXPECT_FALSE(moved("aten::copy_", [&] { x.to(torch::kLong); }).cast);
  EXPECT_TRUE(moved("halftone::int8_quantize", [&] { quantize_left(x, {}); }).cast);
  EXPECT_EQ(moved("aten::mul", [&] { x.mul(half); }).dtypes, "fp32,bf16>fp32");
}

TEST(TensorCores, AskForMultiplesOf16Bytes) {
  EXPECT_EQ(tensor_core_multiple(torch::kHalf), 8);
  EXPECT_EQ(tensor_core_multiple(torch::kBFloat16), 8);
  EXPECT_EQ(tensor_core_multiple(torch::kChar), 16);
  EXPECT_EQ(tensor_core_multiple(torch::kFloat8_e4m3fn), 16);
  EXPECT_EQ(tensor_core_multiple(torch::kLong), 0);

  const MatmulShape gpt2{.m = 1024, .n = 50257, .k = 768, .dtype = torch::kBFloat16};
  EXPECT_EQ(tensor_core_remedy(gpt2), "n 50257 -> 50264");
  EXPECT_EQ(to_string(gpt2), "1024 x 50257 x 768 bf16");
  EXPECT_EQ(tensor_core_remedy({.m = 2048, .n = 6400, .k = 512, .dtype = torch::kBFloat16}), "");
  EXPECT_EQ(tensor_core_remedy({.m = 100, .n = 24, .k = 40, .dtype = torch::kChar}),
            "m 100 -> 112, n 24 -> 32, k 40 -> 48");
  EXPECT_EQ(tensor_core_remedy({.m = 8, .n = 12, .k = 8, .dtype = torch::kFloat}),
            "fp32: compute in bf16 or fp16, n 12 -> 16");
  EXPECT_EQ(tensor_core_remedy({.m = 72, .n = 6, .k = 4 * 9, .dtype = torch::kHalf, .filter = 9}),
            "output channels 6 -> 8, input channels 4 -> 8");
}

}  // namespace
}  // namespace halftone::operation_work_test
