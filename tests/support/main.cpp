// SPDX-License-Identifier: Apache-2.0
// Shared main(): leaves out *_CUDA cases where there is no GPU.
#include <gtest/gtest.h>
#include <torch/cuda.h>

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  if (!torch::cuda::is_available()) {
    const std::string filter = testing::GTEST_FLAG(filter);
    testing::GTEST_FLAG(filter) =
        filter + (filter.find('-') == std::string::npos ? "-" : ":") + "*_CUDA";
  }
  return RUN_ALL_TESTS();
}
