// SPDX-License-Identifier: Apache-2.0
#include "halftone/pretrain/evaluate.h"

#include <fmt/format.h>

#include <cmath>

#include "halftone/core/error.h"
#include "halftone/core/stopwatch.h"
#include "halftone/nn/evaluation_mode.h"
#include "halftone/pretrain/language_modeling.h"
#include "halftone/pretrain/non_finite_report.h"
#include "halftone/pretrain/text_loss.h"

namespace halftone {

EvalResult evaluate(CausalLM& model, const TokenLoader& loader, const MixedPrecision& precision,
                    const std::vector<std::int64_t>& token_bytes,
                    const std::function<void(double share)>& on_progress, ProcessGroup* processes) {
  const Stopwatch watch;
  const EvaluationMode mode(*model);
  const torch::Device device = model->parameters().front().device();
  TextLoss text(token_bytes);
  const std::int64_t first = processes == nullptr ? 0 : processes->rank();
  const std::int64_t step = processes == nullptr ? 1 : processes->size();
  for (std::int64_t i = first; i < loader.batches_per_epoch(); i += step) {
    const TokenBatch batch = loader.batch_at(i).to(device);
    const auto forward = [&] {
      const auto region = precision.forward_context();
      return loss_of(model, batch).cross_entropy;
    };
    const auto loss = forward().item<double>();
    if (!std::isfinite(loss)) throw SystemError(non_finite_loss({i, loss}, *model, forward));
    text.add(loss, batch);
    if (on_progress)
      on_progress(static_cast<double>(i + 1) / static_cast<double>(loader.batches_per_epoch()));
  }
  if (processes != nullptr) text.add_up(*processes);
  if (text.bytes() == 0)
    throw UserError(fmt::format(
        "expected text to predict, found {} tokens that stand for none; name other data",
        text.tokens()));
  return {.loss = text.loss(),
          .perplexity = text.perplexity(),
          .bits_per_byte = text.bits_per_byte(),
          .tokens = text.tokens(),
          .bytes = text.bytes(),
          .seconds = watch.seconds()};
}

}  // namespace halftone
