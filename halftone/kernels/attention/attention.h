// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/types.h>

namespace halftone {

/// Causal softmax(q k^T / sqrt(d)) v in compute_dtype(q), the softmax in fp32. The last query
/// belongs to the last key. Where cpu_gemm_config() says so, 16-bit inputs are computed with in
/// fp32. query (B, H, T, d); key and value (B, K, S, d), S >= T, H a multiple of K: head h reads
/// key head h / (H / K). Returns (B, H, T, d). `dropout` is on the attention weights.
torch::Tensor causal_attention(const torch::Tensor& query, const torch::Tensor& key,
                               const torch::Tensor& value, double dropout = 0.0);

/// The same without a mask: every query sees every key, and there may be any number >= 1 of these.
/// `lengths` (B) int64, or undefined: of batch entry b, the keys from lengths[b] on are padding
/// that no query sees, finite numbers; where no key is left the result is 0 and so are the
/// gradients.
torch::Tensor full_attention(const torch::Tensor& query, const torch::Tensor& key,
                             const torch::Tensor& value, const torch::Tensor& lengths = {},
                             double dropout = 0.0);

/// causal_attention() in `dtype`, by LibTorch's attention.
torch::Tensor causal_attention_reference(const torch::Tensor& query, const torch::Tensor& key,
                                         const torch::Tensor& value, double dropout,
                                         torch::ScalarType dtype);

}  // namespace halftone
