// SPDX-License-Identifier: Apache-2.0
// What all process groups have in common.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "halftone/core/process_group.h"

namespace halftone {

void check_all_to_all(const torch::Tensor& received, const torch::Tensor& sent, std::int64_t size);
void check_all_gather(const torch::Tensor& all, const torch::Tensor& own, std::int64_t size);
void check_broadcast(const torch::Tensor& tensor, std::int64_t root, std::int64_t size);

/// A contiguous tensor's memory.
struct Bytes {
  explicit Bytes(const torch::Tensor& tensor);
  /// Piece `i` of `pieces` equal ones.
  Bytes piece(std::int64_t i, std::int64_t pieces) const;
  /// Makes this memory that of `other`, of the same size; it may be the same memory.
  void copy_from(const Bytes& other) const;

  torch::Tensor tensor;  // (bytes) uint8, a view
};

std::vector<std::string> gather_strings(ProcessGroup& group, const std::string& own);

}  // namespace halftone
