// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/nn/module.h>
#include <torch/nn/modules/container/modulelist.h>
#include <torch/nn/pimpl.h>
#include <torch/types.h>

#include <cstdint>

#include "halftone/nn/encoder_block.h"
#include "halftone/nn/rms_norm.h"

namespace halftone {

/// A transformer that reads: `depth` blocks, and a norm of what the last one gives. Rows come with
/// their positions in them; mean_of_rows() makes one vector of each sequence.
class EncoderImpl : public torch::nn::Module {
 public:
  /// Throws UserError for sizes that do not fit together.
  EncoderImpl(const EncoderBlockOptions& block, std::int64_t depth);

  /// x (B, T, dim), of which `lengths` (B) int64 count, or all -> (B, T, dim): fp32 in a mixed
  /// precision, where x is to be fp32 too, for the stream to be.
  torch::Tensor forward(torch::Tensor x, const torch::Tensor& lengths = {});

 private:
  torch::nn::ModuleList blocks_;
  RmsNorm norm_{nullptr};
};
TORCH_MODULE(Encoder);

}  // namespace halftone
