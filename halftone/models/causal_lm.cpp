// SPDX-License-Identifier: Apache-2.0
#include "halftone/models/causal_lm.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/dropout.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <string>
#include <vector>

#include "halftone/core/error.h"
#include "halftone/core/module_scope.h"
#include "halftone/kernels/linear/compute_context.h"
#include "halftone/models/decoder_layer.h"
#include "halftone/nn/linear.h"
#include "halftone/nn/recompute.h"

namespace halftone {
namespace {

const ModelConfig& validated(const ModelConfig& config) {
  validate(config);
  return config;
}

}  // namespace

using torch::Tensor;

CausalLMImpl::CausalLMImpl(const ModelConfig& config)
    : config_(validated(config)),
      rope_(std::make_shared<RopeTable>(head_dim_of(config), config.rope_theta)) {
  tok_embeddings_ = register_module(
      "tok_embeddings", Embedding(config.vocab_size, config.dim, config.tie_embeddings));
  register_module("layers", layers_);
  for (std::int64_t i = 0; i < config.n_layers; ++i) layers_->push_back(DecoderLayer(config));
  norm_ = register_module("norm", RmsNorm(config.dim, config.norm_eps));
  if (!config.tie_embeddings)
    output_ = register_module("output", LmHead(config.vocab_size, config.dim));
}

Tensor CausalLMImpl::rotations_behind(const KvCache* cache, std::int64_t steps,
                                      torch::Device device) {
  if (cache != nullptr && !cache->rows().empty()) {
    std::vector<Tensor> rows;
    for (const KvCache* row : cache->rows()) rows.push_back(rotations_behind(row, steps, device));
    return at::cat(rows);
  }
  const std::int64_t begin = cache != nullptr ? cache->length() : 0;
  HALFTONE_CHECK(begin + steps <= config_.max_seq_len, "[causal_lm] expected at most max_seq_len (",
                 config_.max_seq_len, ") positions, got ", begin + steps);
  return rope_->rows(begin, steps, device);
}

HiddenOutput CausalLMImpl::hidden(const Tensor& ids, KvCache* cache) {
  const ModuleScope scope(*this);
  return hidden_of_rows(embedded(ids), cache);
}

Tensor CausalLMImpl::embedded(const Tensor& ids) {
  const ModuleScope scope(*this);
  HALFTONE_CHECK(ids.dim() == 2, "[causal_lm] expected ids (B, T), got ", ids.sizes());
  return tok_embeddings_(ids);
}

HiddenOutput CausalLMImpl::hidden_of_rows(const Tensor& rows, KvCache* cache) {
  const ModuleScope scope(*this);
  HALFTONE_CHECK(rows.dim() == 3 && rows.size(2) == config_.dim,
                 "[causal_lm] expected rows (B, T, ", config_.dim, "), got ", rows.sizes());
  const std::int64_t steps = rows.size(1);
  const Tensor rotations = rotations_behind(cache, steps, rows.device());
  Tensor x = rows;
  if (is_training() && config_.dropout > 0.0) x = at::dropout(x, config_.dropout, /*train=*/true);
  LayerOutput stream{.x = x};
  Tensor aux_loss;
  for (std::int64_t i = 0; i < config_.n_layers; ++i) {
    const auto layer = layers_->ptr<DecoderLayerImpl>(static_cast<std::size_t>(i));
    stream = compute_context().recompute_blocks && cache == nullptr
                 ? recompute(layer, stream, rotations)
                 : layer->forward(stream, rotations, {cache, i});
    if (stream.aux_loss.defined())
      aux_loss = aux_loss.defined() ? aux_loss + stream.aux_loss : stream.aux_loss;
  }
  if (cache != nullptr) cache->advance(steps);
  if (!aux_loss.defined()) aux_loss = at::zeros({}, rows.options().dtype(torch::kFloat));
  return {norm_->add(stream.x, stream.branch).normed, aux_loss};
}

HiddenOutput CausalLMImpl::hidden_after_rows(const Tensor& rows, const Tensor& ids) {
  const ModuleScope scope(*this);
  const Tensor behind = embedded(ids);
  HALFTONE_CHECK(rows.dim() == 3 && rows.size(0) == ids.size(0) && rows.size(2) == config_.dim &&
                     rows.scalar_type() == behind.scalar_type(),
                 "[causal_lm] expected rows (", ids.size(0), ", R, ", config_.dim, ") of ",
                 behind.scalar_type(), ", got ", rows.sizes(), " of ", rows.scalar_type());
  HiddenOutput output = hidden_of_rows(at::cat({rows, behind}, 1));
  output.hidden = output.hidden.narrow(1, rows.size(1), ids.size(1)).contiguous();
  return output;
}

ModelOutput CausalLMImpl::forward(const Tensor& ids, KvCache* cache) {
  const HiddenOutput output = hidden(ids, cache);
  return {logits(output.hidden), output.aux_loss};
}

Tensor CausalLMImpl::logits(const Tensor& hidden) {
  return output_ ? output_->logits(hidden) : tok_embeddings_->logits(hidden);
}

Tensor CausalLMImpl::next_logits(const Tensor& ids, KvCache* cache) {
  const Tensor last = hidden(ids, cache).hidden.narrow(1, ids.size(1) - 1, 1);
  return output_ ? output_->logits(last) : tok_embeddings_->logits(last);
}

LossOutput CausalLMImpl::loss(const Tensor& ids, const Tensor& targets, const Tensor& mask) {
  const HiddenOutput output = hidden(ids);
  return {cross_entropy(output.hidden, targets, mask), output.aux_loss};
}

Tensor CausalLMImpl::cross_entropy(const Tensor& hidden, const Tensor& targets,
                                   const Tensor& mask) {
  return output_ ? output_->loss(hidden, targets, mask)
                 : tok_embeddings_->loss(hidden, targets, mask);
}

KvCache CausalLMImpl::make_cache(std::int64_t capacity) const {
  return {config_.n_layers, std::min(capacity, config_.max_seq_len)};
}

void CausalLMImpl::add_adapters(const LoraConfig& lora) {
  HALFTONE_CHECK(lora_.rank == 0, "[causal_lm] expected a model without adapters");
  validate(lora, config_);
  for (Tensor& parameter : parameters()) parameter.set_requires_grad(false);
  const auto modules = named_modules("", /*include_self=*/false);
  const AdapterOptions options{
      .rank = lora.rank, .factor = lora_factor(lora), .dropout = lora.dropout};
  for (const std::string& layer : adapted_layers(lora, config_))
    modules[layer]->as<LinearImpl>()->add_adapter(options);
  lora_ = lora;
}

std::int64_t parameter_count(const CausalLM& model) {
  std::int64_t count = 0;
  for (const Tensor& parameter : model->parameters()) count += parameter.numel();
  return count;
}

}  // namespace halftone
