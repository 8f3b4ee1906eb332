// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/nn/module.h>
#include <torch/nn/pimpl.h>
#include <torch/types.h>

#include <memory>

#include "halftone/models/model_config.h"
#include "halftone/nn/attention.h"
#include "halftone/nn/feed_forward.h"
#include "halftone/nn/moe.h"
#include "halftone/nn/rms_norm.h"

namespace halftone {

/// A layer's result is x + branch: the norm that comes next adds them, in its own pass.
struct LayerOutput {
  torch::Tensor x;         // (B, T, dim)
  torch::Tensor branch;    // (B, T, dim)
  torch::Tensor aux_loss;  // scalar fp32, undefined for a dense layer
};

/// h = x + attention(norm(x)); y = h + feed_forward(norm(h)).
class DecoderLayerImpl : public torch::nn::Module {
 public:
  explicit DecoderLayerImpl(const ModelConfig& config);

  /// Of the layer before, whose branch may be undefined; rotations (T, head_dim / 2).
  LayerOutput forward(const LayerOutput& before, const torch::Tensor& rotations, CacheSlot slot);

 private:
  Attention attention_{nullptr};
  RmsNorm attention_norm_{nullptr};
  RmsNorm ffn_norm_{nullptr};
  FeedForward dense_{nullptr};  // one of the two is there, registered as feed_forward
  MoeFeedForward experts_{nullptr};
};
TORCH_MODULE(DecoderLayer);

/// layer->forward() without a cache, which runs again in the backward pass (nn/recompute.h).
LayerOutput recompute(const std::shared_ptr<DecoderLayerImpl>& layer, const LayerOutput& before,
                      const torch::Tensor& rotations);

}  // namespace halftone
