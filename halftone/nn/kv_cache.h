// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <utility>
#include <vector>

namespace halftone {

/// Keys (after RoPE) and values of the positions a model has seen, in buffers of a fixed capacity
/// that the first use allocates. One cache serves one batch of sequences of equal length.
class KvCache {
 public:
  KvCache(std::int64_t n_layers, std::int64_t capacity);

  std::int64_t length() const { return length_; }  // positions that every layer holds
  std::int64_t capacity() const { return capacity_; }

  /// Stores `key` and `value`, (B, n_kv_heads, T, head_dim), at positions length()..length()+T-1 of
  /// `layer`, and returns all that the layer holds then, (B, n_kv_heads, length() + T, head_dim).
  std::pair<torch::Tensor, torch::Tensor> append(std::int64_t layer, const torch::Tensor& key,
                                                 const torch::Tensor& value);

  /// Makes the positions that were appended part of length(), once all layers have theirs.
  void advance(std::int64_t positions);
  /// Forgets everything but keeps the buffers.
  void clear() { length_ = 0; }

 private:
  struct Layer {
    torch::Tensor keys;    // (B, n_kv_heads, capacity, head_dim)
    torch::Tensor values;  // the same
  };
  std::vector<Layer> layers_;
  std::int64_t capacity_;
  std::int64_t length_ = 0;
};

}  // namespace halftone
