// SPDX-License-Identifier: Apache-2.0
#include <cstdio>

#include "halftone/core/device.h"

int main() {
  const torch::Device device = halftone::resolve_device("auto");
  halftone::synchronize(device);
  std::printf("%s, %llu bytes\n", device.str().c_str(),
              static_cast<unsigned long long>(halftone::cuda_peak_bytes(device)));
  return halftone::built_with_cuda() ? 0 : 1;
}
