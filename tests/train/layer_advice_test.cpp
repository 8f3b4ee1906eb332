// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "halftone/train/layer_advice_impl.h"

namespace halftone::layer_advice_test {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

LayerSample sample_of(const std::string& name, std::int64_t flushed, std::int64_t unchanged = 0) {
  return {.name = name,
          .elements = 1000,
          .gradients = {.norm_squared = 1.0, .largest = 1.0, .flushed = flushed},
          .update = UpdateSummary{.change_squared = 1.0,
                                  .weight_squared = 1.0,
                                  .with_gradient = 1000,
                                  .unchanged = unchanged}};
}

TEST(LayerAdvice, WaitsForThreeSamplesInARowAndSpeaksOnce) {
  LayerAdvice advice;
  const auto consider = [&](std::int64_t flushed) {
    return advice.consider({sample_of("a", 0), sample_of("b", flushed)}, torch::kHalf, 128.0);
  };
  EXPECT_THAT(consider(50), IsEmpty());
  EXPECT_THAT(consider(50), IsEmpty());
  EXPECT_THAT(consider(5), IsEmpty());  // below 1 %
  EXPECT_THAT(consider(50), IsEmpty());
  EXPECT_THAT(consider(50), IsEmpty());
  EXPECT_THAT(consider(50),
              ElementsAre(AllOf(HasSubstr("5.0 % of the gradient becomes zero in fp16 at the "
                                          "loss scale 128 ('b', in 3 samples in a row)"),
                                HasSubstr("loss_scale = adaptive"))));
  for (int i = 0; i < 5; ++i) EXPECT_THAT(consider(500), IsEmpty());
}

TEST(LayerAdvice, NamesTheWorstAndCountsTheOthers) {
  LayerAdvice advice;
  std::vector<std::string> said;
  for (int i = 0; i < 3; ++i)
    said = advice.consider({sample_of("a", 0, 600), sample_of("b", 0, 900), sample_of("c", 0, 700),
                            sample_of("d", 0, 100)},
                           torch::kFloat, std::nullopt);
  EXPECT_THAT(said, ElementsAre(AllOf(HasSubstr("keeps 90 % of the weights"),
                                      HasSubstr("'b' and 2 other parameters"),
                                      HasSubstr("learning rate is too small"))));
}

TEST(LayerAdvice, DoesNotTakeTrueZerosForUnderflow) {
  LayerSample relu = sample_of("relu", 0);
  relu.gradient = torch::kHalf;
  relu.gradients.zeros = relu.gradients.zeros_in_live_rows = 500;
  LayerAdvice advice;
  for (int i = 0; i < 3; ++i) EXPECT_THAT(advice.consider({relu}, torch::kHalf, 1024.0), IsEmpty());
  EXPECT_DOUBLE_EQ(underflow_share_of(relu, torch::kHalf), 0.5);
  relu.gradients.subnormal = 200;  // beside numbers that nearly were zero
  for (int i = 0; i < 2; ++i) advice.consider({relu}, torch::kHalf, 1024.0);
  EXPECT_THAT(advice.consider({relu}, torch::kHalf, 1024.0),
              ElementsAre(HasSubstr("50.0 % of the gradient becomes zero")));
}

TEST(LayerAdvice, SharesOfNothing) {
  LayerSample zeros = sample_of("zeros", 0);
  zeros.gradients = {.zeros = 1000};
  zeros.update->with_gradient = 0;
  EXPECT_EQ(underflow_share_of(zeros, torch::kHalf), 1.0);
  EXPECT_EQ(underflow_share_of(zeros, torch::kBFloat16), 0.0);
  EXPECT_EQ(unchanged_share_of(zeros), std::nullopt);
  zeros.update.reset();
  EXPECT_EQ(unchanged_share_of(zeros), std::nullopt);
}

}  // namespace
}  // namespace halftone::layer_advice_test
