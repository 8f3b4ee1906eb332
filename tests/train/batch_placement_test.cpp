// SPDX-License-Identifier: Apache-2.0
#include "halftone/train/batch_placement.h"

#include <gtest/gtest.h>
#include <torch/data/example.h>

#include <map>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

namespace halftone::batch_placement_test {
namespace {

using Example = torch::data::Example<>;

constexpr auto kCpu = torch::kCPU;

/// Moves itself; `Cast` has the dtype as well.
struct Moved {
  torch::Tensor mask;
  int moves = 0;
  Moved to(const torch::Device& device) const { return {mask.to(device), moves + 1}; }
};
struct Cast : Moved {
  Cast to(const torch::Device& device) const { return {{mask.to(device), moves + 1}}; }
  Cast to(const torch::Device& device, torch::ScalarType dtype) const {
    return {{mask.to(device, dtype), moves + 10}};
  }
};

TEST(Placed, CastsFloatingPointTensorsOnly) {
  const BatchPlacement half{kCpu, torch::kHalf};
  for (const auto dtype : {torch::kFloat, torch::kDouble, torch::kBFloat16})
    EXPECT_EQ(placed(torch::ones({2}, dtype), half).scalar_type(), torch::kHalf) << dtype;
  for (const auto dtype :
       {torch::kLong, torch::kInt, torch::kByte, torch::kBool, torch::kComplexFloat, torch::kHalf})
    EXPECT_EQ(placed(torch::ones({2}, dtype), half).scalar_type(), dtype) << dtype;
  const torch::Tensor as_it_is = torch::ones({2}, torch::kDouble);
  EXPECT_TRUE(placed(as_it_is, {kCpu, {}}).is_same(as_it_is));
}

TEST(Placed, ReachesTheTensorsOfEveryKindOfBatch) {
  const BatchPlacement place{kCpu, torch::kBFloat16};
  const torch::Tensor floats = torch::ones({2}), labels = torch::ones({2}, torch::kLong);
  const auto expect_cast = [](const torch::Tensor& first, const torch::Tensor& second) {
    EXPECT_EQ(first.scalar_type(), torch::kBFloat16);
    EXPECT_EQ(second.scalar_type(), torch::kLong);
  };
  const Example example = placed(Example(floats, labels), place);
  expect_cast(example.data, example.target);
  EXPECT_EQ(placed(torch::data::TensorExample(floats), place).data.scalar_type(), torch::kBFloat16);
  const auto [a, b] = placed(std::pair(floats, labels), place);
  expect_cast(a, b);
  const auto [x, y, count] = placed(std::tuple(floats, labels, 3), place);
  expect_cast(x, y);
  EXPECT_EQ(count, 3);
  const auto several = placed(std::vector<torch::Tensor>{floats, labels}, place);
  expect_cast(several.at(0), several.at(1));
  const auto named =
      placed(std::map<std::string, torch::Tensor>{{"x", floats}, {"y", labels}}, place);
  expect_cast(named.at("x"), named.at("y"));
}

TEST(Placed, LeavesATypeThatMovesItselfToItself) {
  const BatchPlacement half{kCpu, torch::kHalf};
  const BatchPlacement as_it_is{kCpu, {}};
  const torch::Tensor mask = torch::ones({2});
  EXPECT_EQ(placed(Moved{mask}, half).mask.scalar_type(), torch::kFloat);
  EXPECT_EQ(placed(Moved{mask}, half).moves, 1);
  EXPECT_EQ(placed(Cast{{mask}}, half).mask.scalar_type(), torch::kHalf);
  EXPECT_EQ(placed(Cast{{mask}}, half).moves, 10);
  EXPECT_EQ(placed(Cast{{mask}}, as_it_is).moves, 1);
}

}  // namespace
}  // namespace halftone::batch_placement_test
