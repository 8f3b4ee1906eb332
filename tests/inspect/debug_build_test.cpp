// SPDX-License-Identifier: Apache-2.0
// Compiled without NDEBUG in every build.
#ifdef NDEBUG
#error "this test is about builds without NDEBUG"
#endif
#include <ATen/ops/mm.h>
#include <ATen/ops/ones.h>
#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "halftone/inspect/operation_observer_impl.h"
#include "halftone/kernels/common/recorded_op_impl.h"

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

TEST(DebugBuild, ReportsOperationsOfOurOwn) {
  const auto recorder = std::make_shared<Recorder>();
  const torch::Tensor x = at::ones({2}), y = at::ones({3});
  {
    const Observation observation(recorder);
    ObservedOperation observed("halftone::test", x, std::vector<torch::Tensor>{x, y},
                               torch::Tensor());
    EXPECT_TRUE(observed);
    observed.set_outputs(y);
  }
  ASSERT_EQ(recorder->ended.size(), 1);
  const OperationCall& call = recorder->ended.front();
  EXPECT_EQ(call.name, "halftone::test");
  ASSERT_EQ(call.inputs.size(), 3);
  EXPECT_FALSE(call.inputs[0].is_list);
  EXPECT_TRUE(call.inputs[1].is_list);
  EXPECT_TRUE(call.inputs[1].tensors.at(1).is_same(y));
  EXPECT_TRUE(call.outputs.at(0).tensors.at(0).is_same(y));
  EXPECT_FALSE(ObservedOperation("halftone::test", x)) << "nobody observes any more";
}

}  // namespace
}  // namespace halftone::debug_build_test
