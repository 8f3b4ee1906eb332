// SPDX-License-Identifier: Apache-2.0
// Autocast's policy for an operation's arguments: LibTorch's own lists, read from the dispatcher,
// and entries for your operations.
#pragma once

#include <torch/types.h>

#include <string>
#include <vector>

namespace halftone {

/// Of the floating arguments on the region's device; double ones and integers are never cast.
enum class CastPolicy {
  kLowerPrecision,  // cast to the region's dtype
  kFp32,            // cast to fp32
  kFp32Dtype,       // as they are, but computed and returned in fp32 unless a dtype is given
  kWidest,          // cast to fp32 if one of them is, else to the region's dtype
  kRefused,         // an error under autocast
};

struct AutocastEntry {
  std::string op;  // "aten::mm", "aten::prod.dim_int"
  CastPolicy policy = CastPolicy::kLowerPrecision;
};

/// Every operation that autocast on `device` (CPU or CUDA) treats, sorted by name; all others run
/// in the dtype of their inputs. Found by letting the registered kernels cast tensors without data
/// and looking at what they would call: it needs no GPU and is true of the LibTorch that is loaded.
std::vector<AutocastEntry> autocast_policy(torch::DeviceType device);

/// docs/autocast.md: both devices' lists.
std::string autocast_reference();

/// Puts an operation of a TORCH_LIBRARY, "my_ops::fused" or "my_ops::fused.overload", under
/// autocast on `device` for the rest of the process. kFp32Dtype fills an argument `ScalarType?
/// dtype`. Arguments marked by mark_keep_fp32() make it fp32. Throws c10::Error for an operation
/// that is not defined, is LibTorch's, or has a policy there. Thread-safe.
void register_autocast(const std::string& op, torch::DeviceType device, CastPolicy policy);

}  // namespace halftone
