// SPDX-License-Identifier: Apache-2.0
// Compiled without NDEBUG in every build.
#ifdef NDEBUG
#error "this test is about builds without NDEBUG"
#endif
#include <ATen/ops/mm.h>
#include <ATen/ops/ones.h>
#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <tuple>
#include <vector>

#include "halftone/inspect/operation_observer_impl.h"
#include "halftone/kernels/common/operator_impl.h"

namespace halftone::debug_build_test {
namespace {

struct Recorder : OperationObserver {
  void begin(const OperationCall& call) override { began.push_back(call); }
  void end(const OperationCall& call) override { ended.push_back(call); }
  std::vector<OperationCall> began, ended;
};

TEST(DebugBuild, ReadsTheOperationsOfAReleaseLibTorch) {
  const auto recorder = std::make_shared<Recorder>();
  const torch::Tensor a = at::ones({2, 3}), b = at::ones({3, 4});
  {
    const Observation observation(recorder);
    at::mm(a, b);
  }
  ASSERT_FALSE(recorder->ended.empty());
  const OperationCall& call = recorder->ended.back();
  EXPECT_EQ(call.name, "aten::mm");
  ASSERT_EQ(call.inputs.size(), 2);
  EXPECT_TRUE(call.inputs[0].tensors.at(0).is_same(a));
  EXPECT_TRUE(call.inputs[1].tensors.at(0).is_same(b));
  ASSERT_EQ(call.outputs.size(), 1);
  EXPECT_EQ(call.outputs[0].tensors.at(0).sizes(), torch::IntArrayRef({2, 4}));
}

std::tuple<torch::Tensor, torch::Tensor> first_and_sum(const torch::Tensor& x, at::TensorList more,
                                                       const std::optional<torch::Tensor>&) {
  return {x, x.sum() + more[1].sum()};
}

const Operator<std::tuple<torch::Tensor, torch::Tensor>(const torch::Tensor&, at::TensorList,
                                                        const std::optional<torch::Tensor>&)>
    test_operator(
        "debug_build_test(Tensor(a!) x, Tensor[] more, Tensor? none) -> (Tensor(a!), Tensor)",
        {.reference = first_and_sum});

TEST(DebugBuild, ReportsOperationsOfOurOwn) {
  const auto recorder = std::make_shared<Recorder>();
  const torch::Tensor x = at::ones({2}), y = at::ones({3});
  {
    const Observation observation(recorder);
    test_operator(x, {x, y}, std::nullopt);
  }
  ASSERT_FALSE(recorder->ended.empty());
  const OperationCall& call = recorder->ended.back();
  EXPECT_EQ(call.name, operator_namespace() + "::debug_build_test");
  ASSERT_EQ(call.inputs.size(), 3);
  EXPECT_FALSE(call.inputs[0].is_list);
  EXPECT_TRUE(call.inputs[0].is_written);
  EXPECT_TRUE(call.inputs[1].is_list);
  EXPECT_TRUE(call.inputs[1].tensors.at(1).is_same(y));
  EXPECT_TRUE(call.inputs[2].tensors.empty());
  ASSERT_EQ(call.outputs.size(), 2);
  EXPECT_TRUE(call.outputs[0].tensors.at(0).is_same(x));
  EXPECT_EQ(call.outputs[1].tensors.at(0).item<double>(), 5.0);
}

}  // namespace
}  // namespace halftone::debug_build_test
