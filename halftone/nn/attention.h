// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/nn/module.h>
#include <torch/nn/pimpl.h>
#include <torch/types.h>

#include <cstdint>
#include <vector>

#include "halftone/nn/kv_cache.h"
#include "halftone/nn/linear.h"
#include "halftone/nn/rms_norm.h"

namespace halftone {

struct AttentionOptions {
  std::int64_t dim = 0;
  std::int64_t n_heads = 0;
  std::int64_t n_kv_heads = 0;
  std::int64_t head_dim = 0;
  bool has_qkv_bias = false;  // of wq, wk and wv
  bool has_qk_norm = false;   // each head's query and key are normed before they are rotated
  double norm_eps = 1e-6;     // of these norms
  double dropout = 0.0;       // on the attention weights and after the output projection
};

/// The cache that a layer reads and extends with its keys and values. Without one, a call sees its
/// own alone.
struct CacheSlot {
  KvCache* cache = nullptr;
  std::int64_t layer = 0;
};

/// Causal grouped-query attention with RoPE on adjacent pairs. The scores are kept in fp32 with wq.
class AttentionImpl : public torch::nn::Module {
 public:
  explicit AttentionImpl(const AttentionOptions& options);

  /// x (B, T, dim), rotations (T, head_dim / 2) of these T positions, or (B T, head_dim / 2) beside
  /// a cache of_rows(); returns (B, T, dim).
  torch::Tensor forward(const torch::Tensor& x, const torch::Tensor& rotations, CacheSlot slot);

  /// The dtype that forward() rounds x to before anything else: x may come in it.
  torch::ScalarType input_dtype(const torch::Tensor& x) const;

 private:
  std::vector<const LinearImpl*> input_layers() const { return {wq_.get(), wk_.get(), wv_.get()}; }
  // (B, T, dim) -> qkv
  torch::Tensor project(const torch::Tensor& x);
  torch::Tensor norm_heads(const torch::Tensor& qkv);
  // (B, T, heads, d), (B, T, kv_heads, d) and (B, T, kv_heads, d) of qkv.
  std::vector<torch::Tensor> heads_of(const torch::Tensor& qkv) const;
  // qkv (B, T, (heads + 2 kv_heads) d) -> (B, T, heads d).
  torch::Tensor mixed(const torch::Tensor& qkv, const torch::Tensor& rotations,
                      const CacheSlot& slot);
  torch::Tensor cached(const torch::Tensor& qkv, const torch::Tensor& rotations,
                       const CacheSlot& slot);
  torch::Tensor cached_rows(const torch::Tensor& qkv, const torch::Tensor& rotations,
                            const CacheSlot& slot);

  AttentionOptions options_;
  Linear wq_{nullptr};
  Linear wk_{nullptr};
  Linear wv_{nullptr};
  Linear wo_{nullptr};
  RmsNorm q_norm_{nullptr};  // with has_qk_norm
  RmsNorm k_norm_{nullptr};
};
TORCH_MODULE(Attention);

}  // namespace halftone
