// SPDX-License-Identifier: Apache-2.0
#include "halftone/core/device.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "halftone/core/error.h"
#include "support/message_of.h"

namespace halftone::device_test {
namespace {

using testing::HasSubstr;

std::string error_of(const std::string& name) {
  return test::message_of<UserError>([&] { resolve_device(name); });
}

TEST(ResolveDevice, KnowsTheCpu) { EXPECT_EQ(resolve_device("cpu"), torch::Device(torch::kCPU)); }

TEST(ResolveDevice, AutoIsCudaExactlyWhereThereIsADevice) {
  EXPECT_EQ(resolve_device("auto").is_cuda(), cuda_device_count() > 0);
}

TEST(ResolveDevice, RefusesOtherNames) {
  for (const char* name : {"", "gpu", "CPU", "cpu:0", "cuda:", "cuda:-1", "cuda:x", "cuda:1x",
                           "cuda:99999999999", "cudas"})
    EXPECT_THAT(error_of(name), HasSubstr("expected auto, cpu, cuda or cuda:N")) << name;
}

TEST(ResolveDevice, SaysWhyThereIsNoCuda) {
  if (!built_with_cuda())
    EXPECT_THAT(error_of("cuda"), HasSubstr("built without CUDA"));
  else if (cuda_device_count() == 0)
    EXPECT_THAT(error_of("cuda:1"), HasSubstr("no usable CUDA device"));
  else
    EXPECT_THAT(error_of("cuda:99"), HasSubstr("device is 'cuda:99', but this machine has"));
}

TEST(Device, CpuHasNoCudaMemoryAndNothingToWaitFor) {
  EXPECT_EQ(cuda_peak_bytes(torch::kCPU), 0);
  EXPECT_EQ(cuda_compute_capability(torch::kCPU), 0);
  EXPECT_NO_THROW(synchronize(torch::kCPU));
}

TEST(Device, HasAComputeCapability_CUDA) {
  EXPECT_GE(cuda_compute_capability(resolve_device("cuda")), 50);
}

TEST(Device, PeakCoversWhatWasAllocated_CUDA) {
  const torch::Device device = resolve_device("cuda");
  const torch::Tensor held = torch::zeros({1 << 20}, device);
  synchronize(device);
  EXPECT_GE(cuda_peak_bytes(device), held.nbytes());
}

}  // namespace
}  // namespace halftone::device_test
