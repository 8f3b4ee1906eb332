// SPDX-License-Identifier: Apache-2.0
// A pre-norm decoder with RoPE, grouped-query attention, and SwiGLU or a mixture of experts: the
// families of models/model_family.h, MiniMind's generations among them.
#pragma once

#include <torch/nn/module.h>
#include <torch/nn/modules/container/modulelist.h>
#include <torch/nn/pimpl.h>
#include <torch/types.h>

#include <cstdint>
#include <memory>

#include "halftone/models/lora.h"
#include "halftone/models/model_config.h"
#include "halftone/nn/embedding.h"
#include "halftone/nn/kv_cache.h"
#include "halftone/nn/lm_head.h"
#include "halftone/nn/rms_norm.h"
#include "halftone/nn/rope.h"

namespace halftone {

struct ModelOutput {
  torch::Tensor logits;    // (B, T, V), in the compute dtype
  torch::Tensor aux_loss;  // scalar fp32: the routers' load-balance terms; 0 for a dense model
};

struct HiddenOutput {
  torch::Tensor hidden;    // (B, T, dim), normalised: what the output head multiplies
  torch::Tensor aux_loss;  // as in ModelOutput
};

struct LossOutput {
  torch::Tensor cross_entropy;  // scalar fp32: masked_cross_entropy() of the logits
  torch::Tensor aux_loss;       // as in ModelOutput

  torch::Tensor total() const { return cross_entropy + aux_loss; }
};

/// The language model. It does not know its precision: that is the dtype of its parameters and the
/// autocast state of the calling thread. Nor does it know what a run has memory for: where the
/// ComputeContext says recompute_blocks, each decoder layer runs again in the backward pass.
/// Parameters carry the names of MiniMind V2, whatever the family. A matrix that
/// `tok_embeddings.weight` and `output.weight` share is registered once, under the first name, so
/// that parameters() holds it once.
class CausalLMImpl : public torch::nn::Module {
 public:
  /// Throws UserError when `config` makes no model. Weights are drawn from LibTorch's default
  /// generator.
  explicit CausalLMImpl(const ModelConfig& config);

  /// ids (B, T) int64. With a cache the T ids follow the cache.length() ones it holds, and it
  /// advances by T; with one of_rows(), row b's follow those of its own cache. Throws c10::Error
  /// when the positions exceed max_seq_len.
  ModelOutput forward(const torch::Tensor& ids, KvCache* cache = nullptr);

  /// The logits of forward() at each row's last position alone: (B, 1, V).
  torch::Tensor next_logits(const torch::Tensor& ids, KvCache* cache = nullptr);

  /// forward() up to the output head, of which a caller may want a few positions only.
  HiddenOutput hidden(const torch::Tensor& ids, KvCache* cache = nullptr);

  /// The rows of ids (B, T) that hidden() begins with: (B, T, dim). A caller may put others before
  /// them, such as what an encoder says of a picture.
  torch::Tensor embedded(const torch::Tensor& ids);

  /// hidden() of rows (B, T, dim) in the dtype of embedded(), one for each position.
  HiddenOutput hidden_of_rows(const torch::Tensor& rows, KvCache* cache = nullptr);

  /// hidden() of ids (B, T) that stand behind `rows` (B, R, dim) in the dtype of embedded(), such
  /// as those of a picture: what is at the T positions of the ids, contiguous. aux_loss is that of
  /// all positions. Throws c10::Error for other rows, and where R + T exceeds max_seq_len.
  HiddenOutput hidden_after_rows(const torch::Tensor& rows, const torch::Tensor& ids);

  /// The logits of what hidden() gave (..., dim): (..., V).
  torch::Tensor logits(const torch::Tensor& hidden);

  /// masked_cross_entropy() of these logits, without ever holding all of them. targets (...) int64,
  /// mask (...).
  torch::Tensor cross_entropy(const torch::Tensor& hidden, const torch::Tensor& targets,
                              const torch::Tensor& mask);

  /// The loss of forward(ids), without ever holding all logits. ids and targets (B, T) int64, mask
  /// (B, T); targets are ignored where masked.
  LossOutput loss(const torch::Tensor& ids, const torch::Tensor& targets,
                  const torch::Tensor& mask);

  /// A cache for `capacity` positions, at most max_seq_len.
  KvCache make_cache(std::int64_t capacity) const;

  const ModelConfig& config() const { return config_; }

  /// Puts an adapter beside each layer that `lora` names, whose A is drawn from LibTorch's default
  /// generator, and freezes all other parameters (requires_grad = false). REQUIRES that there are
  /// none yet. Throws UserError as validate() does.
  void add_adapters(const LoraConfig& lora);
  /// Of rank 0: there are none.
  const LoraConfig& lora() const { return lora_; }

 private:
  // Of `steps` positions behind those that the cache, which may be null, holds.
  torch::Tensor rotations_behind(const KvCache* cache, std::int64_t steps, torch::Device device);

  ModelConfig config_;
  LoraConfig lora_;
  std::shared_ptr<RopeTable> rope_;
  Embedding tok_embeddings_{nullptr};
  torch::nn::ModuleList layers_;
  RmsNorm norm_{nullptr};
  LmHead output_{nullptr};  // unless the embedding is the head
};
TORCH_MODULE(CausalLM);

/// Numbers in parameters().
std::int64_t parameter_count(const CausalLM& model);

}  // namespace halftone
