// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "halftone/core/error.h"
#include "halftone/models/minimind.h"

namespace halftone {

struct SamplingOptions {
  double temperature = 0.85;
  double top_p = 0.85;  // the smallest set of tokens that together has this probability
  bool greedy = false;  // always the likeliest token
  std::uint64_t seed = 0;
  std::int64_t max_new_tokens = 256;
  std::int64_t eos = -1;  // stops here; -1: never
};

/// The logits after `ids` hold inf or nan.
class NonFiniteLogits : public SystemError {
 public:
  explicit NonFiniteLogits(std::vector<std::int64_t> the_ids);

  std::vector<std::int64_t> ids;
};

/// Extends `prompt` (not empty) token by token. Every id goes to `on_token`, which returns false to
/// stop; the end token does not. When the positions run out, the second half of the context is read
/// again and generation goes on. The ids are a function of weights, prompt and options, the seed
/// among them. The model is in evaluation mode meanwhile, without gradients.
/// Throws UserError when an option is out of range or the prompt names an unknown id, and
/// NonFiniteLogits.
void generate(MiniMindLM& model, std::vector<std::int64_t> prompt, const SamplingOptions& options,
              const std::function<bool(std::int64_t id)>& on_token);

}  // namespace halftone
