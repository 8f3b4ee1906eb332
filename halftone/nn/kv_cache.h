// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <utility>
#include <vector>

namespace halftone {

/// Keys (after RoPE) and values of the positions a model has seen, in buffers of a fixed capacity
/// that the first use allocates. One cache serves one batch of sequences of equal length; sequences
/// of different lengths have a cache each, and are a batch by KvCache::of_rows().
class KvCache {
 public:
  KvCache(std::int64_t n_layers, std::int64_t capacity);
  /// A batch whose row b continues the sequence of `rows[b]`, which holds one. They are used where
  /// they are, and must outlive this.
  static KvCache of_rows(std::vector<KvCache*> rows);

  /// Those of of_rows(); none for all others, which alone hold keys and values themselves.
  const std::vector<KvCache*>& rows() const { return rows_; }

  std::int64_t length() const { return length_; }  // positions that every layer holds
  std::int64_t capacity() const { return capacity_; }

  /// Stores `key` and `value`, (B, n_kv_heads, T, head_dim), at positions length()..length()+T-1 of
  /// `layer`, and returns all that the layer holds then, (B, n_kv_heads, length() + T, head_dim).
  std::pair<torch::Tensor, torch::Tensor> append(std::int64_t layer, const torch::Tensor& key,
                                                 const torch::Tensor& value);

  /// Makes the positions that were appended part of length(), once all layers have theirs.
  void advance(std::int64_t positions);
  /// Forgets all but the first `length` positions, of length() at most; keeps the buffers.
  void truncate(std::int64_t length);
  void clear() { truncate(0); }

 private:
  struct Layer {
    torch::Tensor keys;    // (B, n_kv_heads, capacity, head_dim)
    torch::Tensor values;  // the same
  };
  std::vector<Layer> layers_;
  std::int64_t capacity_;
  std::int64_t length_ = 0;
  std::vector<KvCache*> rows_;
};

}  // namespace halftone
