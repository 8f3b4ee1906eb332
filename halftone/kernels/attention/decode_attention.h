// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/types.h>

namespace halftone {

/// Whether the kernel of decode_attention() takes these operands: gradients are off, one query,
/// keys and values of `dtype` (fp32, bf16 or fp16) with dense rows.
bool takes_decode_attention(const torch::Tensor& query, const torch::Tensor& key,
                            const torch::Tensor& value, torch::ScalarType dtype);

/// softmax(q k^T / sqrt(d)) v of one position that sees every key, as generation with a cache needs
/// it. On CPUs with AVX2 or NEON, keys and values are read once for all heads that share them:
/// the query is rounded to `dtype`, all else is fp32, the result is rounded once, and does not
/// depend on the number of threads. Elsewhere, and where takes_decode_attention() says no, it is
/// causal_attention_reference(). Not differentiable. query (B, H, 1, d); key and value (B, K, S,
/// d), S >= 1, H a multiple of K; returns (B, H, 1, d) in `dtype`.
torch::Tensor decode_attention(const torch::Tensor& query, const torch::Tensor& key,
                               const torch::Tensor& value, torch::ScalarType dtype);

}  // namespace halftone
