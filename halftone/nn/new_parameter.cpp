// SPDX-License-Identifier: Apache-2.0
#include "halftone/nn/new_parameter.h"

#include <ATen/ops/empty.h>

#include <utility>

namespace halftone {
namespace {

thread_local torch::Device parameter_device = torch::kCPU;

}  // namespace

ParameterDeviceScope::ParameterDeviceScope(torch::Device device)
    : before_(std::exchange(parameter_device, device)) {}

ParameterDeviceScope::~ParameterDeviceScope() { parameter_device = before_; }

torch::Tensor new_parameter(torch::IntArrayRef shape) {
  return at::empty(shape, torch::TensorOptions(parameter_device));
}

}  // namespace halftone
