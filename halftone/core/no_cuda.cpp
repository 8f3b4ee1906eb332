// SPDX-License-Identifier: Apache-2.0
// What device_cuda.cpp does, for a build without CUDA: no tensor can be on a CUDA device.
#include "halftone/core/device.h"

namespace halftone {

bool built_with_cuda() { return false; }

int cuda_device_count() { return 0; }

int cuda_compute_capability(const torch::Device& /*device*/) { return 0; }

std::uint64_t cuda_peak_bytes(const torch::Device& /*device*/) { return 0; }

void synchronize(const torch::Device& /*device*/) {}

}  // namespace halftone
