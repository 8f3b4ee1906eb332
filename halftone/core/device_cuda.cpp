// SPDX-License-Identifier: Apache-2.0
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAGuard.h>

#include "halftone/core/device.h"

namespace halftone {
namespace {

c10::DeviceIndex index_of(const torch::Device& device) {
  return device.has_index() ? device.index() : c10::cuda::current_device();
}

}  // namespace

bool built_with_cuda() { return true; }

int cuda_device_count() { return c10::cuda::device_count(); }

int cuda_compute_capability(const torch::Device& device) {
  if (!device.is_cuda()) return 0;
  int major = 0;
  int minor = 0;
  const int index = index_of(device);
  C10_CUDA_CHECK(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, index));
  C10_CUDA_CHECK(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, index));
  return 10 * major + minor;
}

std::uint64_t cuda_peak_bytes(const torch::Device& device) {
  auto* allocator = c10::cuda::CUDACachingAllocator::get();
  if (!device.is_cuda() || !allocator->initialized()) return 0;
  const auto stats = allocator->getDeviceStats(index_of(device));
  const auto total = static_cast<std::size_t>(c10::CachingAllocator::StatType::AGGREGATE);
  return static_cast<std::uint64_t>(stats.allocated_bytes.at(total).peak);
}

void synchronize(const torch::Device& device) {
  if (!device.is_cuda()) return;
  const c10::cuda::CUDAGuard guard(device);
  c10::cuda::device_synchronize();
}

}  // namespace halftone
