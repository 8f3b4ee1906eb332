// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>
#include <torch/types.h>

#include <cmath>
#include <limits>

#include "halftone/diagnostics/compare/tensor_measures_impl.h"

namespace halftone::tensor_measures_test {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

TEST(RelativeError, IsOfTheValuesThatAreFiniteInBoth) {
  const torch::Tensor reference = torch::tensor({3.0F, 4.0F, 5.0F});
  EXPECT_EQ(relative_error(reference, reference), 0.0);
  EXPECT_NEAR(relative_error(torch::tensor({3.0F, 4.5F, kInf}), reference), 0.1, 1e-12);
  EXPECT_EQ(relative_error(torch::zeros({2}), torch::zeros({2})), 0.0);
  EXPECT_EQ(relative_error(torch::ones({2}), torch::zeros({2})), kInf);
  EXPECT_EQ(relative_error(torch::empty({0}), torch::empty({0})), 0.0);
}

TEST(RelativeError, IsInfiniteWhereEverythingOverflowed) {
  EXPECT_EQ(relative_error(torch::tensor({kInf, NAN}), torch::tensor({3.0F, 4.0F})), kInf);
  EXPECT_EQ(relative_error(torch::tensor({kInf}), torch::tensor({kInf})), 0.0)
      << "the reference has nothing to lose";
}

}  // namespace
}  // namespace halftone::tensor_measures_test
