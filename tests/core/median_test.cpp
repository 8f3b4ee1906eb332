// SPDX-License-Identifier: Apache-2.0
#include "halftone/core/median.h"

#include <gtest/gtest.h>

namespace halftone::median_test {
namespace {

TEST(Median, IsTheMiddleBySize) {
  EXPECT_EQ(median({}), 0.0);
  EXPECT_EQ(median({3}), 3.0);
  EXPECT_EQ(median({9, 1, 4}), 4.0);
  EXPECT_EQ(median({8, 1, 100, 4}), 6.0);
}

}  // namespace
}  // namespace halftone::median_test
