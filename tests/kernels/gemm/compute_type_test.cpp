// SPDX-License-Identifier: Apache-2.0
#include "halftone/kernels/gemm/compute_type.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <string>
#include <vector>

#include "halftone/core/dtype.h"
#include "halftone/precision/policy.h"

namespace halftone::compute_type_test {
namespace {

TEST(ComputeType, GoesFromTheFinestToTheCoarsest) {
  const std::vector<ComputeType> expected = {ComputeType::kFloat32,    ComputeType::kBFloat16,
                                             ComputeType::kFloat16,    ComputeType::kInt8,
                                             ComputeType::kFloat8Rows, ComputeType::kFloat8};
  EXPECT_EQ(compute_types(), expected);
  EXPECT_TRUE(std::is_sorted(expected.begin(), expected.end()));
}

TEST(ComputeType, HasANameOfItsOwn) {
  std::set<std::string> names;
  for (const ComputeType type : compute_types()) names.insert(std::string(to_string(type)));
  EXPECT_EQ(names, (std::set<std::string>{"bf16", "fp16", "fp32", "fp8", "fp8-row", "int8"}));
}

TEST(ComputeType, NeedsALossScaleWhereGradientsVanish) {
  // The smallest normal number of fp16 is 6e-5, those of the others are at most 1.2e-38.
  for (const ComputeType type : compute_types()) {
    const bool is_short = tensor_dtype(type) == torch::kHalf;
    EXPECT_EQ(needs_loss_scaling(type), is_short) << to_string(type);
  }
}

TEST(ComputeType, NamesAPrecisionOfFp32Weights) {
  for (const ComputeType type : compute_types()) {
    const PrecisionPolicy policy = parse_precision(fp32_weights_precision(type));
    EXPECT_EQ(policy.compute, type);
    EXPECT_EQ(policy.parameter, torch::kFloat32);
    EXPECT_EQ(policy.is_mixed(), type != ComputeType::kFloat32);
    EXPECT_EQ(policy.quantizes(), type >= ComputeType::kInt8);
    EXPECT_EQ(policy.autocast(), is_half(policy.compute_dtype()));
  }
}

}  // namespace
}  // namespace halftone::compute_type_test
