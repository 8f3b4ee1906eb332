// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/types.h>

#include <optional>

namespace halftone {

/// While it lives, LibTorch's autocast is on (or off) for one device type in this thread; what was
/// set before comes back at the end of the scope, also when it is left by an exception. Regions
/// nest; the cache of cast weights is dropped when the outermost one ends. Call backward() outside.
/// The rules are those of Python's torch.autocast, except that a nested region of another dtype
/// casts the weights anew; Python's takes the outer dtype's casts from the cache. State is the
/// thread's own but the cache is the process's: threads that use one weight in several dtypes at
/// once need cache_enabled = false.
class Autocast {
 public:
  /// Without `dtype`: the device's present autocast dtype (at first bfloat16 on the CPU, float16 on
  /// CUDA). A CPU region takes bfloat16 or float16; any other dtype, or CUDA where there is none,
  /// warns and switches autocast off. Without `cache_enabled`: as it is now.
  /// Throws c10::Error for a device type without autocast, and for bfloat16 on a GPU that lacks it.
  explicit Autocast(torch::DeviceType device, std::optional<torch::ScalarType> dtype = {},
                    bool enabled = true, std::optional<bool> cache_enabled = {});
  ~Autocast();
  Autocast(const Autocast&) = delete;
  Autocast& operator=(const Autocast&) = delete;

  bool enabled() const { return enabled_; }
  torch::ScalarType dtype() const { return dtype_; }

 private:
  torch::DeviceType device_;
  torch::ScalarType dtype_;
  bool enabled_;
  bool previous_enabled_;
  torch::ScalarType previous_dtype_;
  bool previous_cache_enabled_;
};

/// Drops the weights that autocast has cast in the regions that are open. Call it within a region
/// after an update of weights, or after a backward pass that freed their graph: autocast does not
/// notice either.
void clear_autocast_cache();

/// The device whose autocast tensors of `device` obey: the CPU for tensors without data (meta).
torch::DeviceType autocast_device(torch::DeviceType device);

/// Whether autocast is on in this thread for tensors of `device`. It never is for a device that
/// LibTorch has no autocast for.
bool is_autocast_on(torch::DeviceType device);

}  // namespace halftone
