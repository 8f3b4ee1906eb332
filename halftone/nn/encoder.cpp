// SPDX-License-Identifier: Apache-2.0
#include "halftone/nn/encoder.h"

namespace halftone {

using torch::Tensor;

EncoderImpl::EncoderImpl(const EncoderBlockOptions& block, std::int64_t depth) {
  for (std::int64_t i = 0; i < depth; ++i) blocks_->push_back(EncoderBlock(block));
  register_module("blocks", blocks_);
  norm_ = register_module("norm", RmsNorm(block.dim, block.norm_eps));
}

Tensor EncoderImpl::forward(Tensor x, const Tensor& lengths) {
  for (const auto& block : *blocks_) x = block->as<EncoderBlock>()->forward(x, lengths);
  return norm_(x);
}

}  // namespace halftone
