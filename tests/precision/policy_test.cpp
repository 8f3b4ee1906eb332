// SPDX-License-Identifier: Apache-2.0
#include "halftone/precision/policy.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "halftone/core/error.h"

namespace halftone::policy_test {
namespace {

using testing::HasSubstr;

TEST(Policy, IsTheTableOfTheDocumentation) {
  const PrecisionPolicy mixed = parse_precision("16-mixed");
  EXPECT_EQ(mixed.parameter, torch::kFloat);
  EXPECT_EQ(mixed.compute, ComputeType::kFloat16);
  EXPECT_TRUE(mixed.autocast() && mixed.loss_scaling && !mixed.stochastic_rounding);
  const PrecisionPolicy bf16 = parse_precision("bf16-true");
  EXPECT_EQ(bf16.parameter, torch::kBFloat16);
  EXPECT_TRUE(bf16.stochastic_rounding && !bf16.autocast() && !bf16.loss_scaling);
  const PrecisionPolicy half = parse_precision("16-true");
  EXPECT_EQ(half.parameter, torch::kHalf);
  EXPECT_TRUE(half.loss_scaling && !half.autocast());
  const PrecisionPolicy bf16_mixed = parse_precision("bf16-mixed");
  EXPECT_EQ(bf16_mixed.parameter, torch::kFloat);
  EXPECT_EQ(bf16_mixed.compute, ComputeType::kBFloat16);
  EXPECT_TRUE(bf16_mixed.autocast() && !bf16_mixed.loss_scaling);
  const PrecisionPolicy int8 = parse_precision("int8-mixed");
  EXPECT_EQ(int8.parameter, torch::kFloat);
  EXPECT_TRUE(int8.quantizes() && !int8.autocast() && !int8.loss_scaling);
  const PrecisionPolicy fp8 = parse_precision("fp8-mixed");
  EXPECT_EQ(fp8.parameter, torch::kFloat);
  EXPECT_EQ(fp8.compute_dtype(), torch::kBFloat16);
  EXPECT_TRUE(fp8.quantizes() && fp8.autocast() && !fp8.loss_scaling);
  EXPECT_FALSE(parse_precision("32-true").autocast() || parse_precision("32-true").is_mixed());
}

TEST(Policy, KnowsItsOwnNames) {
  for (const std::string& name : precision_names()) EXPECT_EQ(parse_precision(name).name, name);
  EXPECT_EQ(precision_names().size(), 8U);
}

TEST(Policy, RefusesOthersWithTheListAndTheNearest) {
  try {
    parse_precision("bf16-mixd");
    FAIL() << "accepted";
  } catch (const UserError& error) {
    EXPECT_THAT(error.what(), HasSubstr("32-true, 16-true, bf16-true, 16-mixed, bf16-mixed"));
    EXPECT_THAT(error.what(), HasSubstr("did you mean 'bf16-mixed'"));
  }
}

}  // namespace
}  // namespace halftone::policy_test
