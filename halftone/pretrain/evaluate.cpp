// SPDX-License-Identifier: Apache-2.0
#include "halftone/pretrain/evaluate.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>

#include "halftone/core/error.h"
#include "halftone/core/stopwatch.h"
#include "halftone/nn/evaluation_mode.h"
#include "halftone/pretrain/non_finite_report.h"

namespace halftone {
namespace {

std::int64_t text_bytes(const TokenBatch& batch, const torch::Tensor& bytes_of) {
  return (bytes_of.index_select(0, batch.target_ids.flatten()) *
          batch.loss_mask.flatten().to(torch::kInt64))
      .sum()
      .item<std::int64_t>();
}

}  // namespace

EvalResult evaluate(MiniMindLM& model, const TokenLoader& loader, const MixedPrecision& precision,
                    const std::vector<std::int64_t>& token_bytes,
                    const std::function<void(double share)>& on_progress) {
  const Stopwatch watch;
  const EvaluationMode mode(*model);
  const torch::Device device = model->parameters().front().device();
  const torch::Tensor bytes_of = torch::tensor(token_bytes);
  EvalResult result;
  double nats = 0;
  for (std::int64_t i = 0; i < loader.batches_per_epoch(); ++i) {
    const TokenBatch batch = loader.batch_at(i).to(device);
    const auto forward = [&] {
      const auto region = precision.forward_context();
      return model->loss(batch.input_ids, batch.target_ids, batch.loss_mask).cross_entropy;
    };
    const auto loss = forward().item<double>();
    if (!std::isfinite(loss))
      throw SystemError(fmt::format("the loss of batch {} is {}: {}", i + 1, loss,
                                    origin_of_non_finite(*model, forward)));
    nats += loss * static_cast<double>(batch.tokens);
    result.tokens += batch.tokens;
    result.bytes += text_bytes(batch, bytes_of.to(device));
    if (on_progress)
      on_progress(static_cast<double>(i + 1) / static_cast<double>(loader.batches_per_epoch()));
  }
  if (result.bytes == 0)
    throw UserError(fmt::format(
        "expected text to predict, found {} tokens that stand for none; name other data",
        result.tokens));
  result.loss = nats / static_cast<double>(result.tokens);
  result.perplexity = std::min(std::exp(result.loss), std::numeric_limits<double>::max());
  result.bits_per_byte = nats / std::numbers::ln2 / static_cast<double>(result.bytes);
  result.seconds = watch.seconds();
  return result;
}

}  // namespace halftone
