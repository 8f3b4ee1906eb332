// SPDX-License-Identifier: Apache-2.0
// Where the layers of this library make their parameters: LibTorch's C++ modules have no device to
// be made on.
#pragma once

#include <torch/types.h>

namespace halftone {

/// While it lives, this thread's layers make their parameters on `device`. On the device meta they
/// have shapes and no data: a model of any size takes no memory and no time.
class ParameterDeviceScope {
 public:
  explicit ParameterDeviceScope(torch::Device device);
  ~ParameterDeviceScope();
  ParameterDeviceScope(const ParameterDeviceScope&) = delete;
  ParameterDeviceScope& operator=(const ParameterDeviceScope&) = delete;

 private:
  torch::Device before_;
};

/// Of that device and the default dtype, to be filled. The CPU's outside of all scopes.
torch::Tensor new_parameter(torch::IntArrayRef shape);

}  // namespace halftone
