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

/// The same in `dtype`, by LibTorch's attention.
torch::Tensor causal_attention_reference(const torch::Tensor& query, const torch::Tensor& key,
                                         const torch::Tensor& value, double dropout,
                                         torch::ScalarType dtype);

}  // namespace halftone
