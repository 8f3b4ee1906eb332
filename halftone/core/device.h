// SPDX-License-Identifier: Apache-2.0
// The devices of tensors. The CPU build and the CUDA build differ in one file: no_cuda.cpp or
// device_cuda.cpp.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <optional>
#include <string>

namespace halftone {

/// The device called `name`: "cpu", "cuda" (the first one), "cuda:N", or "auto" (CUDA where there
/// is a device, else the CPU). Throws UserError when the name is none of these, or asks for CUDA
/// where this build or this machine has none; never falls back by itself.
torch::Device resolve_device(const std::string& name);

/// Whether this library was built with HALFTONE_CUDA.
bool built_with_cuda();

/// Number of usable CUDA devices; 0 without a driver and in a CPU build.
int cuda_device_count();

/// Compute capability of a CUDA device, 86 for 8.6; 0 of other devices.
int cuda_compute_capability(const torch::Device& device);

/// The most bytes that tensors have held on `device` at once; 0 on the CPU and before first use.
std::uint64_t cuda_peak_bytes(const torch::Device& device);

/// `tensor` on `device`, in `dtype` where there is one. What comes from the CPU goes through
/// page-locked memory: the device is not waited for.
torch::Tensor to_device(const torch::Tensor& tensor, const torch::Device& device,
                        std::optional<torch::ScalarType> dtype = {});

/// Waits until `device` has done all it was given; returns at once on the CPU.
void synchronize(const torch::Device& device);

}  // namespace halftone
