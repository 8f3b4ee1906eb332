// SPDX-License-Identifier: Apache-2.0
#include "halftone/pretrain/config_precision.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "halftone/core/error.h"

namespace halftone::config_precision_test {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

TrainConfig scaled_config() {
  TrainConfig config;
  config.precision = "16-mixed";
  config.loss_scale = "128";
  config.keep_fp32 = {"norm"};
  config.layer_precision = {"feed_forward=bf16"};
  return config;
}

TEST(InPrecision, ItsOwnChangesNothing) {
  const TrainConfig same = in_precision(scaled_config(), "16-mixed");
  EXPECT_EQ(same.loss_scale, "128");
  EXPECT_THAT(same.keep_fp32, ElementsAre("norm"));
  EXPECT_THAT(same.layer_precision, ElementsAre("feed_forward=bf16"));
}

TEST(InPrecision, WhatDoesNotGoWithAnotherIsGivenUp) {
  const TrainConfig bf16 = in_precision(scaled_config(), "bf16-mixed");
  EXPECT_EQ(bf16.precision, "bf16-mixed");
  EXPECT_EQ(bf16.loss_scale, "dynamic");
  EXPECT_THAT(bf16.keep_fp32, ElementsAre("norm"));
  EXPECT_THAT(bf16.layer_precision, IsEmpty());
  const TrainConfig half = in_precision(scaled_config(), "16-true");
  EXPECT_EQ(half.loss_scale, "128");
  EXPECT_THAT(half.keep_fp32, IsEmpty());
  EXPECT_THROW(in_precision(scaled_config(), "17-mixed"), UserError);
}

TEST(PolicyOf, IsThatOfFp32WhereNothingIsChosen) {
  TrainConfig config;
  config.precision = kAutoPrecision;
  EXPECT_FALSE(policy_of(config).is_mixed());
  EXPECT_EQ(policy_of(scaled_config()).name, "16-mixed");
}

}  // namespace
}  // namespace halftone::config_precision_test
