// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "halftone/data/token_loader.h"
#include "halftone/models/causal_lm.h"
#include "halftone/train/mixed_precision.h"

namespace halftone {

struct EvalResult {
  double loss = 0;           // mean cross entropy in nats over the predicted tokens
  double perplexity = 0;     // exp(loss), no more than the largest double
  double bits_per_byte = 0;  // total cross entropy in bits per byte of the predicted text
  std::int64_t tokens = 0;
  std::int64_t bytes = 0;
  double seconds = 0;
};

/// One pass over the loader's data without gradients, dropout or the routers' auxiliary loss.
/// `token_bytes` (V): bytes of text that each id stands for, 0 for special tokens. `on_progress` is
/// called with the share that is done. Throws SystemError, which names the tensor that went wrong
/// first, for a loss that is not finite, and UserError where no text is predicted. Several
/// `processes` share the batches; all get the result.
EvalResult evaluate(CausalLM& model, const TokenLoader& loader, const MixedPrecision& precision,
                    const std::vector<std::int64_t>& token_bytes,
                    const std::function<void(double share)>& on_progress = {},
                    ProcessGroup* processes = nullptr);

}  // namespace halftone
