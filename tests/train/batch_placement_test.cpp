// SPDX-License-Identifier: Apache-2.0
#include "halftone/train/batch_placement.h"

#include <gtest/gtest.h>
#include <torch/data/example.h>

#include <map>
#include <optional>
#include <string>
#include <tuple>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

namespace halftone::batch_placement_test {

/// Lists its tensors by a function of its namespace.
struct Foreign {
  torch::Tensor x;
};
inline auto batch_tensors(Foreign& one) { return std::tie(one.x); }

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

struct Inner {
  torch::Tensor mask;
  std::optional<torch::Tensor> extra;
  auto tensors() { return std::tie(mask, extra); }
};
struct Outer {
  torch::Tensor images, labels;
  std::vector<Inner> inner;
  int id = 0;
  auto tensors() { return std::tie(images, labels, inner); }
};

TEST(Placed, ReachesTheTensorsThatAStructLists) {
  const torch::Tensor floats = torch::ones({2}), labels = torch::ones({2}, torch::kLong);
  const Outer batch{floats, labels, {{floats, floats}, {labels, {}}}, 7};
  const Outer moved = placed(batch, {kCpu, torch::kHalf});
  EXPECT_EQ(moved.images.scalar_type(), torch::kHalf);
  EXPECT_EQ(moved.labels.scalar_type(), torch::kLong);
  EXPECT_EQ(moved.inner.at(0).mask.scalar_type(), torch::kHalf);
  EXPECT_EQ(moved.inner.at(0).extra->scalar_type(), torch::kHalf);
  EXPECT_EQ(moved.inner.at(1).mask.scalar_type(), torch::kLong);
  EXPECT_FALSE(moved.inner.at(1).extra.has_value());
  EXPECT_EQ(moved.id, 7);
  EXPECT_EQ(batch.images.scalar_type(), torch::kFloat) << "the loader's batch is as it was";
  EXPECT_EQ(batch.inner.at(0).extra->scalar_type(), torch::kFloat);
  EXPECT_EQ(placed(Foreign{floats}, {kCpu, torch::kHalf}).x.scalar_type(), torch::kHalf);
  EXPECT_TRUE(placed(Foreign{floats}, {kCpu, {}}).x.is_same(floats));
}

TEST(Placed, ReachesWhatOptionalsVariantsAndHashedMapsHold) {
  const BatchPlacement half{kCpu, torch::kHalf};
  const torch::Tensor floats = torch::ones({2});
  using Either = std::variant<torch::Tensor, std::string, Example>;
  EXPECT_EQ(std::get<0>(placed(Either(floats), half)).scalar_type(), torch::kHalf);
  EXPECT_EQ(std::get<1>(placed(Either(std::string("a")), half)), "a");
  EXPECT_EQ(std::get<2>(placed(Either(Example(floats, floats)), half)).target.scalar_type(),
            torch::kHalf);
  EXPECT_FALSE(placed(std::optional<torch::Tensor>(), half).has_value());
  const std::unordered_map<std::string, Inner> named = {{"x", {floats, floats}}};
  EXPECT_EQ(placed(named, half).at("x").mask.scalar_type(), torch::kHalf);
}

}  // namespace
}  // namespace halftone::batch_placement_test
