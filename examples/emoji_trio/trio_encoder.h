// SPDX-License-Identifier: Apache-2.0
// The encoders of trio_module.h: a small transformer that turns rows into one vector.
#pragma once

#include <halftone/kernels/linear/compute_context.h>
#include <halftone/nn/feed_forward.h>
#include <halftone/nn/linear.h>
#include <halftone/nn/mean_of_rows.h>
#include <halftone/nn/multi_head_attention.h>
#include <halftone/nn/new_parameter.h>
#include <halftone/nn/recompute.h>
#include <halftone/nn/rms_norm.h>
#include <torch/nn/modules/container/modulelist.h>

#include <cstdint>
#include <memory>
#include <vector>

/// A layer of an encoder: each position sees all that are no padding.
struct TrioBlockImpl : torch::nn::Module {
  explicit TrioBlockImpl(std::int64_t width)
      : attention_norm(register_module("attention_norm", halftone::RmsNorm(width, 1e-6))),
        attention(register_module("attention",
                                  halftone::MultiHeadAttention(halftone::MultiHeadAttentionOptions{
                                      .dim = width, .n_heads = width / 32}))),
        ffn_norm(register_module("ffn_norm", halftone::RmsNorm(width, 1e-6))),
        ffn(register_module("ffn", halftone::FeedForward(width, width * 8 / 3 / 32 * 32, 0.0))) {}

  // The norms add the branches to the stream and round to the matmuls' format, in one pass.
  torch::Tensor forward(const torch::Tensor& x, const torch::Tensor& lengths) {
    const torch::ScalarType dtype = ffn->input_dtype(x);
    const halftone::NormedSum seen = attention_norm->add(x, {}, dtype);
    const halftone::NormedSum h =
        ffn_norm->add(seen.sum, attention(seen.normed, torch::Tensor(), lengths), dtype);
    return h.sum + ffn(h.normed);
  }

  halftone::RmsNorm attention_norm;
  halftone::MultiHeadAttention attention;
  halftone::RmsNorm ffn_norm;
  halftone::FeedForward ffn;
};
TORCH_MODULE(TrioBlock);

/// Rows to one vector of length 1.
struct TrioEncoderImpl : torch::nn::Module {
  TrioEncoderImpl(std::int64_t width, std::int64_t depth, std::int64_t rows)
      : places(
            register_parameter("places", halftone::new_parameter({rows, width}).normal_(0, 0.02))),
        norm(register_module("norm", halftone::RmsNorm(width, 1e-6))),
        to_space(register_module("to_space", halftone::Linear(width, width))) {
    for (std::int64_t i = 0; i < depth; ++i) blocks->push_back(TrioBlock(width));
    register_module("blocks", blocks);
  }

  /// rows (B, T, width), of which `lengths` (B) count, or all -> fp32 (B, width).
  torch::Tensor forward(const torch::Tensor& rows, const torch::Tensor& lengths = {}) {
    torch::Tensor x = rows + places.narrow(0, 0, rows.size(1));
    for (std::size_t i = 0; i < blocks->size(); ++i)
      x = run(blocks->ptr<TrioBlockImpl>(i), x, lengths);
    const torch::Tensor place =
        to_space(halftone::mean_of_rows(norm(x), lengths)).to(torch::kFloat);
    return place * place.square().sum(-1, true).add(1e-12).rsqrt();
  }

  // With `memory` lean a block keeps its input alone, and runs again in the backward pass.
  static torch::Tensor run(const std::shared_ptr<TrioBlockImpl>& block, const torch::Tensor& x,
                           const torch::Tensor& lengths) {
    if (!halftone::compute_context().recompute_blocks) return block->forward(x, lengths);
    const auto again = [block, lengths](const std::vector<torch::Tensor>& in) {
      return std::vector<torch::Tensor>{block->forward(in[0], lengths)};
    };
    return halftone::recompute(again, {x}, block->parameters())[0];
  }

  torch::Tensor places;
  halftone::RmsNorm norm;
  halftone::Linear to_space;
  torch::nn::ModuleList blocks;
};
TORCH_MODULE(TrioEncoder);
