// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

namespace halftone {

struct SamplingOptions {
  double temperature = 0.85;
  double top_p = 0.85;  // the smallest set of tokens that together has this probability
  bool greedy = false;  // always the likeliest token
  std::uint64_t seed = 0;
  std::int64_t max_new_tokens = 256;
  std::int64_t eos = -1;  // stops here; -1: never
};

/// Throws UserError when a temperature or top_p is out of range.
void check_sampling(const SamplingOptions& options);

/// The id that follows where `logits` (V), which are finite, stand for the next token. A function
/// of its arguments: `position` counts the tokens that were sampled before.
std::int64_t sample_token(const std::vector<double>& logits, const SamplingOptions& options,
                          std::int64_t position);

}  // namespace halftone
