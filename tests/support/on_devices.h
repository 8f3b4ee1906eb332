// SPDX-License-Identifier: Apache-2.0
// Cases that hold on every device: on the CPU, on the stand-in for a GPU, and on a GPU where there
// is one (main.cpp leaves out what ends in _CUDA where there is none).
#pragma once

#include <gtest/gtest.h>
#include <torch/types.h>

#include <string>
#include <vector>

#include "support/stand_in_device.h"

namespace halftone::test {

/// The base of a suite of TEST_P cases, which HALFTONE_ON_DEVICES lists.
class OnDevices : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    if (std::string(GetParam()) == "stand_in" && !has_stand_in())
      GTEST_SKIP() << "a CUDA build has no stand-in for a GPU";
  }
  torch::Device device() const {
    const std::string name = GetParam();
    return name == "stand_in" ? stand_in_device() : torch::Device(name);
  }
  torch::Tensor here(const torch::Tensor& tensor) const {
    return tensor.defined() ? tensor.to(device()) : tensor;
  }
  std::vector<torch::Tensor> here(std::vector<torch::Tensor> tensors) const {
    for (torch::Tensor& tensor : tensors) tensor = here(tensor);
    return tensors;
  }
};

inline std::string device_name_of(const testing::TestParamInfo<const char*>& info) {
  const std::string name = info.param;
  return name == "cpu" ? "CPU" : name == "cuda" ? "on_CUDA" : "on_the_stand_in";
}

}  // namespace halftone::test

#define HALFTONE_ON_DEVICES(suite)                                                     \
  INSTANTIATE_TEST_SUITE_P(Devices, suite, testing::Values("cpu", "stand_in", "cuda"), \
                           halftone::test::device_name_of)

// For what is compared with the CPU's.
#define HALFTONE_OFF_THE_CPU(suite)                                             \
  INSTANTIATE_TEST_SUITE_P(Devices, suite, testing::Values("stand_in", "cuda"), \
                           halftone::test::device_name_of)
