// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/types.h>

#include <cstdint>

namespace halftone {

/// Query heads, and the key and value heads that they share: head h reads key head
/// h / (heads / kv_heads).
struct HeadCounts {
  std::int64_t heads = 0;
  std::int64_t kv_heads = 0;
};

/// Causal self-attention with RoPE on adjacent pairs of queries and keys, of projections that lie
/// side by side: causal_attention(apply_rope(q), apply_rope(k), v) in compute_dtype(qkv). On the
/// CPU one pass over blocks of queries keeps no scores and repeats no keys (after Dao et al. 2022):
/// rotated queries and keys are rounded to the compute dtype, sums and the softmax are fp32. The
/// matmuls take bf16 factors where the choice for bf16 (cpu_gemm_config.h) says native, forward for
/// the forward pass and input_gradient for the backward pass: then the softmax weights, and the
/// gradient of the scores, are rounded to bf16 for them. Elsewhere the factors are fp32. Only qkv
/// and a number for each query are kept for the backward pass. The result does not depend on the
/// number of threads; batch times kv_heads of them are kept busy. qkv (B, T, (heads + 2 kv_heads)
/// d): all queries, then all keys, then all values; rotations (T, d / 2) complex64. Returns (B, T,
/// heads d). Differentiable as often as its definition.
torch::Tensor rotary_attention(const torch::Tensor& qkv, const torch::Tensor& rotations,
                               const HeadCounts& counts);

/// The definition, in plain ATen operations. `dropout` is on the attention weights.
torch::Tensor rotary_attention_reference(const torch::Tensor& qkv, const torch::Tensor& rotations,
                                         const HeadCounts& counts, double dropout = 0.0);

}  // namespace halftone
