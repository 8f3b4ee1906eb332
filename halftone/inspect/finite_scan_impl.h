// SPDX-License-Identifier: Apache-2.0
// Whether a tensor holds inf or nan, at the speed of memory: it is asked of all that operations
// read and make.
#pragma once

#include <torch/types.h>

#include <vector>

namespace halftone {

/// Of a tensor that is_readable(). Waits for the device.
bool has_non_finite(const torch::Tensor& tensor);

/// Which memory has been found to be finite since clear(): an operation that consists of others
/// hands the same tensors on to them.
class CleanMemory {
 public:
  void clear() { spans_.clear(); }
  void add(const torch::Tensor& tensor);
  /// Somebody writes to it.
  void forget(const torch::Tensor& tensor);
  bool contains(const torch::Tensor& tensor) const;

 private:
  struct Span {
    const char* begin;
    const char* end;
  };
  std::vector<Span> spans_;  // a few
};

}  // namespace halftone
