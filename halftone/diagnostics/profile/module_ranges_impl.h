// SPDX-License-Identifier: Apache-2.0
// The modules that a step goes through as NVTX ranges, which NVIDIA's Nsight Systems shows beside
// the kernels. The CUDA build and the CPU build differ in one file: module_ranges_cuda.cpp or
// no_module_ranges.cpp.
#pragma once

#include <string>
#include <vector>

namespace halftone {

/// "layers.0", "layers.0.attention", "layers.0.attention.wq" of the last: a number goes with the
/// list that it is a place of.
std::vector<std::string> module_levels(const std::string& path);

/// The ranges that are open in this thread; a thread of autograd has its own.
class ModuleRanges {
 public:
  /// Closes and opens ranges until those of `levels` are open, each inside the one before it. None
  /// of them: closes all.
  static void enter(const std::vector<std::string>& levels);

 private:
  // NVTX's own; nothing in a build without CUDA.
  static void push(const std::string& name);
  static void pop();
};

}  // namespace halftone
