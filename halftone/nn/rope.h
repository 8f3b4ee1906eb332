// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <mutex>

namespace halftone {

/// The rotations e^(j pos theta^(-2i/d)), grown to the longest sequence seen (Su et al. 2021).
/// Thread-safe.
class RopeTable {
 public:
  /// REQUIRES an even head_dim.
  RopeTable(std::int64_t head_dim, double theta);

  /// Rotations of positions begin..begin+count-1: (count, head_dim / 2) complex64 on `device`.
  torch::Tensor rows(std::int64_t begin, std::int64_t count, torch::Device device);

 private:
  std::int64_t head_dim_;
  double theta_;
  std::mutex mutex_;
  torch::Tensor table_;  // (positions, head_dim / 2)
};

}  // namespace halftone
