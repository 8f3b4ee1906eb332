// SPDX-License-Identifier: Apache-2.0
#include "halftone/pretrain/evaluate.h"

#include <chrono>
#include <cmath>
#include <numbers>

namespace halftone {

EvalResult evaluate(MiniMindLM& model, const BatchLoader& loader, const MixedPrecision& precision,
                    const std::vector<std::int64_t>& token_bytes,
                    const std::function<void(double share)>& on_progress) {
  const auto start = std::chrono::steady_clock::now();
  const torch::NoGradGuard no_grad;
  const bool was_training = model->is_training();
  model->eval();
  const torch::Device device = model->parameters().front().device();
  const torch::Tensor bytes_of = torch::tensor(token_bytes);
  EvalResult result;
  double nats = 0;
  for (std::int64_t i = 0; i < loader.batches_per_epoch(); ++i) {
    const Batch batch = loader.batch_at(i);
    const auto region = precision.forward_context();
    const LossOutput loss = model->loss(batch.input_ids.to(device), batch.target_ids.to(device),
                                        batch.loss_mask.to(device));
    nats += loss.cross_entropy.item<double>() * static_cast<double>(batch.tokens);
    result.tokens += batch.tokens;
    result.bytes += (bytes_of.index_select(0, batch.target_ids.flatten()) *
                     batch.loss_mask.flatten().to(torch::kInt64))
                        .sum()
                        .item<std::int64_t>();
    if (on_progress)
      on_progress(static_cast<double>(i + 1) / static_cast<double>(loader.batches_per_epoch()));
  }
  model->train(was_training);
  result.loss = nats / static_cast<double>(result.tokens);
  result.perplexity = std::exp(result.loss);
  result.bits_per_byte = nats / std::numbers::ln2 / static_cast<double>(result.bytes);
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}

}  // namespace halftone
