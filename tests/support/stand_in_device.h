// SPDX-License-Identifier: Apache-2.0
// A device that is no CPU, for machines without a GPU: its tensors lie in ordinary memory, and
// LibTorch's CPU kernels compute them, but to the library they are on another device. What a GPU
// would make the host wait for is counted.
#pragma once

#include <torch/nn/module.h>
#include <torch/types.h>

#include <string>
#include <vector>

namespace halftone::test {

/// The device; the first call makes it. REQUIRES has_stand_in().
torch::Device stand_in_device();

/// False in a CUDA build, whose LibTorch takes the streams of every device for CUDA's.
bool has_stand_in();

/// Moves the parameters of a module that has not computed yet; Module::to() refuses this device.
void move_to_stand_in(torch::nn::Module& module);

/// Counts, while it lives, what the host would have waited for on the stand-in: reads of a scalar
/// and copies between host and device that are not queued. In a CUDA build, what it waits for on a
/// GPU.
class HostWaits {
 public:
  HostWaits();
  ~HostWaits();
  HostWaits(const HostWaits&) = delete;
  HostWaits& operator=(const HostWaits&) = delete;

  /// One line each: what was read or copied.
  std::vector<std::string> seen() const;
};

}  // namespace halftone::test
