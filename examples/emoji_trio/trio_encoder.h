// SPDX-License-Identifier: Apache-2.0
// The encoders of trio_module.h: a small transformer that turns rows into one vector.
#pragma once

#include <halftone/nn/encoder_block.h>
#include <halftone/nn/linear.h>
#include <halftone/nn/mean_of_rows.h>
#include <halftone/nn/new_parameter.h>
#include <halftone/nn/rms_norm.h>
#include <torch/nn/modules/container/modulelist.h>

#include <cstdint>

/// Rows to one vector of length 1.
struct TrioEncoderImpl : torch::nn::Module {
  TrioEncoderImpl(std::int64_t width, std::int64_t depth, std::int64_t rows)
      : places(
            register_parameter("places", halftone::new_parameter({rows, width}).normal_(0, 0.02))),
        norm(register_module("norm", halftone::RmsNorm(width, 1e-6))),
        to_space(register_module("to_space", halftone::Linear(width, width))) {
    const halftone::EncoderBlockOptions block{
        .dim = width, .n_heads = width / 32, .hidden_dim = width * 8 / 3 / 32 * 32};
    for (std::int64_t i = 0; i < depth; ++i) blocks->push_back(halftone::EncoderBlock(block));
    register_module("blocks", blocks);
  }

  /// rows (B, T, width), of which `lengths` (B) count, or all -> fp32 (B, width).
  torch::Tensor forward(const torch::Tensor& rows, const torch::Tensor& lengths = {}) {
    torch::Tensor x = rows + places.narrow(0, 0, rows.size(1));
    for (const auto& block : *blocks) x = block->as<halftone::EncoderBlock>()->forward(x, lengths);
    const torch::Tensor place =
        to_space(halftone::mean_of_rows(norm(x), lengths)).to(torch::kFloat);
    return place * place.square().sum(-1, true).add(1e-12).rsqrt();
  }

  torch::Tensor places;
  halftone::RmsNorm norm;
  halftone::Linear to_space;
  torch::nn::ModuleList blocks;
};
TORCH_MODULE(TrioEncoder);
