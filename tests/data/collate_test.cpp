// SPDX-License-Identifier: Apache-2.0
#include "halftone/data/collate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <limits>
#include <map>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "halftone/core/error.h"
#include "support/message_of.h"

namespace halftone::collate_test {

// Listed by a function of their namespace, where the type is somebody else's.
struct Foreign {
  torch::Tensor x;
  std::int64_t id = 0;
};
inline auto batch_tensors(Foreign& one) { return std::tie(one.x); }

namespace {

using test::message_of;
using testing::HasSubstr;
using torch::Tensor;

Tensor row(double value) { return torch::full({2}, value); }

TEST(DefaultCollate, StacksTensors) {
  const Tensor batch = default_collate(std::vector{row(1), row(2), row(3)});
  EXPECT_TRUE(batch.equal(torch::tensor({{1.F, 1.F}, {2.F, 2.F}, {3.F, 3.F}})));
  EXPECT_EQ(default_collate(std::vector{torch::zeros({}, torch::kLong)}).sizes(),
            at::IntArrayRef({1}));
  EXPECT_EQ(default_collate(std::vector{torch::zeros({0, 3})}).sizes(), at::IntArrayRef({1, 0, 3}));
}

TEST(DefaultCollate, MakesTensorsOfNumbers) {
  const auto expect_batch = [](const Tensor& got, const Tensor& expected) {
    EXPECT_EQ(got.scalar_type(), expected.scalar_type());
    EXPECT_TRUE(got.equal(expected));
  };
  expect_batch(default_collate(std::vector<int>{1, -2}), torch::tensor({1, -2}, torch::kLong));
  expect_batch(default_collate(std::vector<std::uint64_t>{7}), torch::tensor({7}, torch::kLong));
  expect_batch(default_collate(std::vector<float>{0.1F}), torch::tensor({0.1F}, torch::kFloat));
  expect_batch(default_collate(std::vector<double>{0.1}), torch::tensor({0.1}, torch::kDouble));
  expect_batch(default_collate(std::vector<bool>{true, false}),
               torch::tensor({1, 0}, torch::kBool));
  constexpr auto kMost = std::numeric_limits<std::uint64_t>::max();
  EXPECT_THROW(default_collate(std::vector<std::uint64_t>{kMost}), c10::Error);
}

TEST(DefaultCollate, KeepsTheKindOfEverySample) {
  using Example = torch::data::Example<>;
  const Example example = default_collate(std::vector<Example>{{row(1), row(2)}, {row(3), row(4)}});
  EXPECT_TRUE(example.data.equal(torch::stack({row(1), row(3)})));
  EXPECT_TRUE(example.target.equal(torch::stack({row(2), row(4)})));

  const torch::data::Example<> labelled = default_collate(
      std::vector<torch::data::Example<Tensor, std::int64_t>>{{row(1), 5}, {row(2), 6}});
  EXPECT_TRUE(labelled.target.equal(torch::tensor({5, 6})));

  const torch::data::TensorExample unlabelled =
      default_collate(std::vector<torch::data::TensorExample>{{row(1)}, {row(2)}});
  EXPECT_EQ(unlabelled.data.size(0), 2);

  const std::pair<Tensor, Tensor> pair = default_collate(std::vector{std::pair(row(1), 5)});
  EXPECT_EQ(pair.second.scalar_type(), torch::kLong);

  const auto [x, y, name] = default_collate(std::vector{
      std::tuple(row(1), 0.5F, std::string("a")), std::tuple(row(2), 0.25F, std::string("b"))});
  EXPECT_EQ(x.size(0), 2);
  EXPECT_TRUE(y.equal(torch::tensor({0.5F, 0.25F})));
  EXPECT_EQ(name, (std::vector<std::string>{"a", "b"}));

  const std::array<Tensor, 2> views =
      default_collate(std::vector<std::array<Tensor, 2>>{{row(1), row(2)}, {row(3), row(4)}});
  EXPECT_TRUE(views[1].equal(torch::stack({row(2), row(4)})));

  const std::vector<Tensor> list =
      default_collate(std::vector<std::vector<Tensor>>{{row(1), row(2)}, {row(3), row(4)}});
  EXPECT_TRUE(list.at(1).equal(torch::stack({row(2), row(4)})));

  const std::map<std::string, Tensor> named = default_collate(
      std::vector<std::map<std::string, int>>{{{"x", 1}, {"y", 2}}, {{"x", 3}, {"y", 4}}});
  EXPECT_TRUE(named.at("y").equal(torch::tensor({2, 4})));
}

struct Detection {
  Tensor image;
  std::pair<Tensor, Tensor> boxes;
  int unlisted = 0;
  auto tensors() { return std::tie(image, boxes); }
};

TEST(DefaultCollate, JoinsStructsThatListTheirParts) {
  const Detection batch = default_collate(
      std::vector<Detection>{{row(1), {row(2), row(3)}, 7}, {row(4), {row(5), row(6)}, 8}});
  EXPECT_TRUE(batch.image.equal(torch::stack({row(1), row(4)})));
  EXPECT_TRUE(batch.boxes.second.equal(torch::stack({row(3), row(6)})));
  EXPECT_EQ(batch.unlisted, 7) << "of the first sample";
  const Foreign foreign = default_collate(std::vector<Foreign>{{row(1), 3}, {row(2), 4}});
  EXPECT_EQ(foreign.x.sizes(), at::IntArrayRef({2, 2}));
}

TEST(DefaultCollate, ChangesNoSample) {
  std::vector<Detection> samples = {{row(1), {row(2), row(3)}}, {row(4), {row(5), row(6)}}};
  const Detection batch = default_collate(samples);
  batch.image.zero_();
  EXPECT_TRUE(samples[0].image.equal(row(1)));
}

TEST(DefaultCollate, SaysWhichSampleDiffers) {
  const auto refused = [](const auto& samples) {
    return message_of<UserError>([&] { default_collate(samples); });
  };
  EXPECT_THAT(refused(std::vector{row(1), row(2), torch::zeros({3})}),
              HasSubstr("expected Float (2) on cpu as of sample 0, got Float (3) on cpu of sample "
                        "2; give the data set equal ones, or the loader a collate function"));
  EXPECT_THAT(refused(std::vector{row(1), row(1).to(torch::kDouble)}),
              HasSubstr("got Double (2) on cpu of sample 1"));
  EXPECT_THAT(refused(std::vector{row(1), Tensor()}), HasSubstr("got an undefined tensor"));
  EXPECT_THAT(refused(std::vector<std::vector<Tensor>>{{row(1)}, {}}),
              HasSubstr("expected 1 elements as of sample 0, got 0 of sample 1"));
  using Map = std::map<std::string, int>;
  EXPECT_THAT(refused(std::vector<Map>{{{"x", 1}}, {{"y", 1}}}), HasSubstr("of a key"));
  EXPECT_THAT(refused(std::vector<Map>{{{"x", 1}}, {{"x", 1}, {"y", 1}}}),
              HasSubstr("expected 1 keys as of sample 0, got 2 of sample 1"));
}

TEST(PadSequences, FillsUpBehindTheEnds) {
  const std::vector<Tensor> sequences = {torch::tensor({1, 2, 3}), torch::tensor({4}),
                                         torch::zeros({0}, torch::kLong)};
  const PaddedSequences batch = pad_sequences(sequences, -100);
  EXPECT_TRUE(batch.padded.equal(
      torch::tensor({{1, 2, 3}, {4, -100, -100}, {-100, -100, -100}}, torch::kLong)));
  EXPECT_TRUE(batch.lengths.equal(torch::tensor({3, 1, 0}, torch::kLong)));
  EXPECT_TRUE(batch.mask.equal(torch::tensor({{1, 1, 1}, {1, 0, 0}, {0, 0, 0}}).to(torch::kBool)));
}

TEST(PadSequences, TakesEveryShapeAndDtype) {
  const std::vector<Tensor> sequences = {torch::rand({2, 3, 4}, torch::kDouble),
                                         torch::rand({5, 3, 4}, torch::kDouble)};
  const PaddedSequences batch = pad_sequences(sequences, std::nan(""));
  EXPECT_EQ(batch.padded.sizes(), at::IntArrayRef({2, 5, 3, 4}));
  EXPECT_EQ(batch.padded.scalar_type(), torch::kDouble);
  for (std::int64_t i = 0; i < 2; ++i) {
    const Tensor kept = batch.padded[i].index({batch.mask[i]});
    EXPECT_TRUE(kept.equal(sequences[static_cast<std::size_t>(i)]));
  }
  EXPECT_EQ(batch.padded.isnan().sum().item<int>(), 3 * 3 * 4);
  const PaddedSequences empty = pad_sequences(std::vector{torch::zeros({0, 2})});
  EXPECT_EQ(empty.padded.sizes(), at::IntArrayRef({1, 0, 2}));
  EXPECT_EQ(empty.mask.sizes(), at::IntArrayRef({1, 0}));
}

TEST(PadSequences, RefusesWhatCannotBeOneTensor) {
  const auto refused = [](const std::vector<Tensor>& sequences) {
    return message_of<UserError>([&] { pad_sequences(sequences); });
  };
  EXPECT_THAT(refused({torch::zeros({1, 2}), torch::zeros({1, 3})}),
              HasSubstr("got Float (1, 3) on cpu of sequence 1"));
  EXPECT_THAT(refused({row(1), row(1).to(torch::kHalf)}), HasSubstr("got Half (2)"));
  EXPECT_THAT(refused({torch::zeros({})}), HasSubstr("got Float () on cpu of sequence 0"));
  EXPECT_THROW(pad_sequences({}), c10::Error);
  const std::vector<Tensor> ids = {torch::tensor({1})};
  EXPECT_THROW(pad_sequences(ids, 0.5), c10::Error);
  EXPECT_THROW(pad_sequences(ids, std::nan("")), c10::Error);
  EXPECT_THROW(pad_sequences(std::vector{ids[0].to(torch::kByte)}, -1), c10::Error);
}

}  // namespace
}  // namespace halftone::collate_test
