// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/types.h>

#include <cstdint>

namespace halftone {

/// masked_mean_cross_entropy() of lm_head_logits(hidden, weight), with its dtypes, but never all
/// logits: on the CPU, chunks of rows go through the matmuls, the loss and the gradient, which is
/// taken in the forward pass and multiplied by the incoming one in the backward pass. So the
/// gradients are kept in fp32 from the forward pass on (N x dim + V x dim), and are differentiable
/// once. fp64 and other devices take the definition.
///
/// 16-bit logits' gradients are rounded before they are multiplied by the incoming gradient: an
/// fp16 one has a power of two of its own meanwhile (docs/numerics.md), so that a loss scale
/// neither saves it nor makes it overflow.
///
/// hidden (N, dim), weight (V, dim), targets (N) int64, ignored where masked, mask (N) of any
/// dtype. `chunk_rows` 0: chosen. Returns a scalar, fp32.
torch::Tensor linear_cross_entropy(const torch::Tensor& hidden, const torch::Tensor& weight,
                                   const torch::Tensor& targets, const torch::Tensor& mask,
                                   std::int64_t chunk_rows = 0);

/// linear(hidden, weight) of an output head: in the format that lm_head_type() gives for that of
/// the layers before it. A head with a format of its own (layer_formats.h) has logits of that
/// format's tensor_dtype(): no layer takes them. hidden (..., dim), weight (V, dim); returns (...,
/// V).
torch::Tensor lm_head_logits(const torch::Tensor& hidden, const torch::Tensor& weight);

/// The rows of a chunk. Each chunk reads and writes the weight's whole gradient, so a chunk has
/// just enough rows to hide that. All chunks are about equally large.
std::int64_t loss_chunk_rows(std::int64_t rows, std::int64_t classes, std::int64_t dim);

}  // namespace halftone
