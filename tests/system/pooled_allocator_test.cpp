// SPDX-License-Identifier: Apache-2.0
#include "halftone/system/pooled_allocator.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

namespace halftone::pooled_allocator_test {
namespace {

constexpr std::int64_t kMany = std::int64_t{1} << 20U;  // floats: 4 MiB

class PooledTensors : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    before_ = torch::ones({kMany});
    pool_large_tensors();
  }
  std::size_t in_use() const { return pooled_tensor_memory().in_use; }

  static inline torch::Tensor before_;  // lies elsewhere
};

TEST_F(PooledTensors, LieInThePoolWhereTheyAreLarge) {
  const std::size_t empty = in_use();
  {
    const torch::Tensor small = torch::ones({100});
    EXPECT_EQ(in_use(), empty);
    const torch::Tensor large = torch::ones({kMany});
    EXPECT_GE(in_use(), empty + 4 * kMany);
    EXPECT_EQ((large + before_).sum().item<float>(), 2.0F * kMany);
  }
  EXPECT_EQ(in_use(), empty);
  EXPECT_GT(pooled_tensor_memory().mapped, 0U);
  release_pooled_memory();
  EXPECT_EQ(pooled_tensor_memory().mapped, in_use());
}

TEST_F(PooledTensors, GrowAndShrink) {
  torch::Tensor one = torch::arange(100, torch::kFloat);
  one.resize_({kMany});
  EXPECT_EQ(one[99].item<float>(), 99.0F);
  one.resize_({3 * kMany});
  EXPECT_EQ(one[99].item<float>(), 99.0F);
  one.resize_({10}).set_(torch::zeros({5}));
  EXPECT_EQ(one.sum().item<float>(), 0.0F);
}

TEST_F(PooledTensors, LeaveThoseBeforeThemAlone) {
  const std::size_t empty = in_use();
  EXPECT_EQ(before_.sum().item<float>(), 1.0F * kMany);
  before_ = torch::Tensor();  // goes back to where it came from
  EXPECT_EQ(in_use(), empty);
}

TEST_F(PooledTensors, ServeLibrariesThatAskForBareMemory) {
  const torch::Tensor a = torch::ones({1024, 1024}, torch::kBFloat16);
  EXPECT_EQ(torch::mm(a, a)[5][7].item<float>(), 1024.0F);  // oneDNN
  const torch::Tensor images = torch::ones({4, 16, 64, 64});
  const torch::Tensor filters = torch::ones({16, 16, 3, 3});
  EXPECT_EQ(torch::conv2d(images, filters)[0][0][10][10].item<float>(), 144.0F);
}

}  // namespace
}  // namespace halftone::pooled_allocator_test
