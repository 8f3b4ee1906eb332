// SPDX-License-Identifier: Apache-2.0
#include "halftone/train/batch_weight.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/data/example.h>

#include <array>
#include <cmath>
#include <map>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <variant>
#include <vector>

#include "halftone/core/error.h"
#include "halftone/train/training_module.h"
#include "support/message_of.h"

namespace halftone::batch_weight_test {
namespace {

using test::message_of;
using testing::HasSubstr;
using torch::Tensor;

TEST(SampleCount, IsTheFirstDimensionOrTheElements) {
  struct Own {
    std::int64_t samples() const { return 7; }
    Tensor data = torch::zeros({3, 2});
  };
  struct Other {
    int unknown = 3;
  };
  const Tensor rows = torch::zeros({3, 2}), one = torch::zeros({});
  const torch::data::Example<> example(rows, torch::zeros({3}));
  EXPECT_EQ(sample_count(rows), 3);
  EXPECT_EQ(sample_count(one), 1);
  EXPECT_EQ(sample_count(Tensor()), 1);
  EXPECT_EQ(sample_count(example), 3);
  EXPECT_EQ(sample_count(std::pair(rows, one)), 3);
  EXPECT_EQ(sample_count(std::vector<Tensor>{rows, rows}), 2);
  EXPECT_EQ(sample_count(std::vector<torch::data::Example<>>{example, example}), 2);
  EXPECT_EQ(sample_count(Own()), 7);
  EXPECT_EQ(sample_count(Other()), 1);
}

TEST(SampleCount, IsThatOfTheFirstPart) {
  struct Listed {
    Tensor images = torch::zeros({3, 2}), scale = torch::zeros({});
    auto tensors() { return std::tie(images, scale); }
  };
  const Tensor rows = torch::zeros({3, 2}), one = torch::zeros({});
  EXPECT_EQ(sample_count(Listed()), 3);
  EXPECT_EQ(sample_count(std::tuple(rows, one, 4)), 3);
  EXPECT_EQ(sample_count(std::tuple(Listed(), one)), 3);
  EXPECT_EQ(sample_count(std::tuple<>()), 1);
  EXPECT_EQ(sample_count(std::array{rows, rows}), 3);
  EXPECT_EQ(sample_count(std::map<std::string, Tensor>{{"x", rows}, {"y", rows}}), 3);
  EXPECT_EQ(sample_count(std::map<std::string, Tensor>()), 1);
  EXPECT_EQ(sample_count(std::optional(rows)), 3);
  EXPECT_EQ(sample_count(std::optional<Tensor>()), 1);
  EXPECT_EQ(sample_count(std::variant<int, Tensor>(rows)), 3);
  EXPECT_EQ(sample_count(std::vector<Listed>(2)), 2);
}

TEST(RelativeWeights, AreByTheMeanAndExactlyOneWhereAllAreEqual) {
  // 0.1 + 0.1 + 0.1 is not 0.3: equal counts must not be divided by a rounded mean.
  for (const double count : {1.0, 3.0, 0.1, 1e-300}) {
    for (const BatchWeight& weight :
         relative_weights(std::vector<double>(3, count), std::vector<double>(3, count / 3))) {
      EXPECT_EQ(weight.loss, 1.0);
      EXPECT_EQ(weight.samples, 1.0);
      EXPECT_EQ(weight.samples_to_loss, 1.0);
    }
  }
  const std::vector<BatchWeight> weights =
      relative_weights(std::vector{2.0, 0.0, 10.0}, std::vector{1.0, 1.0, 4.0});
  EXPECT_EQ(weights[0].loss, 0.5);
  EXPECT_EQ(weights[1].loss, 0.0);
  EXPECT_EQ(weights[2].loss, 2.5);
  EXPECT_EQ(weights[2].samples, 2.0);
  EXPECT_EQ(weights[0].samples_to_loss, 1.0);
  EXPECT_EQ(weights[1].samples_to_loss, 1.0) << "a batch without weight has no term to scale";
  EXPECT_EQ(weights[2].samples_to_loss, 0.8);
}

TEST(RelativeWeights, OfNothingButZerosAreEqual) {
  for (const BatchWeight& weight : relative_weights(std::vector{0.0, 0.0}, std::vector{1.0, 3.0})) {
    EXPECT_EQ(weight.loss, 1.0);
  }
}

TEST(RelativeWeights, RefuseWhatIsNoWeight) {
  for (const double bad : {-1.0, std::nan(""), std::numeric_limits<double>::infinity()})
    EXPECT_THAT(message_of<c10::Error>([&] {
                  relative_weights(std::vector{1.0, bad}, std::vector{1.0, 1.0});
                }),
                HasSubstr("expected loss_weight() to be 0 or more and finite"));
}

TEST(LossAverage, NamesRoundTripAndSlipsAreMended) {
  EXPECT_EQ(parse_loss_average("tokens"), LossAverage::kTokens);
  EXPECT_EQ(parse_loss_average("micro-batches"), LossAverage::kMicroBatches);
  EXPECT_THAT(message_of<UserError>([] { parse_loss_average("token"); }),
              HasSubstr("did you mean 'tokens'"));
}

TEST(LoggedValues, OfWeightZeroDoNotCount) {
  LoggedValues values;
  values.add("loss", torch::tensor(2.0), 3.0);
  values.add("loss", torch::tensor(NAN), 0.0);
  values.add("loss", torch::tensor(6.0), 1.0);
  EXPECT_EQ(values.take().at("loss"), 3.0);
}

}  // namespace
}  // namespace halftone::batch_weight_test
