// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

#include "halftone/core/error.h"
#include "halftone/models/causal_lm.h"
#include "halftone/models/sampling.h"

namespace halftone {

/// The logits after `ids` hold inf or nan.
class NonFiniteLogits : public SystemError {
 public:
  explicit NonFiniteLogits(std::vector<std::int64_t> the_ids);

  std::vector<std::int64_t> ids;
};

/// Why a text ended.
enum class TextEnd {
  kEndToken,  ///< the model ended it
  kLength,    ///< max_new_tokens
  kContext,   ///< no position is left
  kStopped,   ///< the caller
};

/// Extends `prompt` (not empty) token by token. Every id goes to `on_token`, which returns false to
/// stop; the end token does not. When the positions run out, the second half of the context is read
/// again and generation goes on. The ids are a function of weights, prompt and options, the seed
/// among them. The model is in evaluation mode meanwhile, without gradients.
/// Throws UserError when an option is out of range or the prompt names an unknown id, and
/// NonFiniteLogits.
TextEnd generate(CausalLM& model, std::vector<std::int64_t> prompt, const SamplingOptions& options,
                 const std::function<bool(std::int64_t id)>& on_token);

struct GeneratedText {
  std::vector<std::int64_t> ids;  // that were added
  TextEnd end = TextEnd::kLength;
};

/// What follows `rows` (1, T, dim), T >= 1, in the dtype of CausalLM::embedded(): generate() for a
/// model that is told of something else than text, such as a picture. Where generate() drops the
/// beginning of a full context and goes on, this ends. Throws what generate() does (NonFiniteLogits
/// has the ids that were added), and c10::Error for rows of another shape or more than the context.
GeneratedText generate_after_rows(CausalLM& model, const torch::Tensor& rows,
                                  const SamplingOptions& options);

struct BatchGenerationOptions {
  SamplingOptions sampling;
  std::int64_t batch_size = 8;  // prompts that are extended at once
  /// Called after each step with the tokens that were added so far; false stops.
  std::function<bool(std::int64_t tokens)> on_step;
};

/// generate() of each prompt, several at once: a text that ends makes room for the next prompt.
/// Nothing is padded: each sequence has a cache of its own, and only linear layers see them
/// together. On the CPU at most 8 rows are multiplied at once, whose results do not depend on
/// each other, so that each text is that of generate() alone. Texts go to `on_text` in the order of
/// the prompts. Returns false where on_step stopped it.
bool generate_batch(CausalLM& model, const std::vector<std::vector<std::int64_t>>& prompts,
                    const BatchGenerationOptions& options,
                    const std::function<void(std::size_t index, const GeneratedText&)>& on_text);

/// Extends sequences that begin alike, such as the turns of a conversation: keys and values are
/// kept from one call to the next, and only what is new is read.
class CachedGenerator {
 public:
  explicit CachedGenerator(CausalLM model);

  /// Extends `prompt`, shorter than the model's context, as generate() does, but ends where the
  /// context does.
  TextEnd extend(const std::vector<std::int64_t>& prompt, const SamplingOptions& options,
                 const std::function<bool(std::int64_t id)>& on_token);

  /// Positions that the model has computed since the beginning.
  std::int64_t positions_read() const { return positions_read_; }

 private:
  CausalLM model_;
  KvCache cache_;
  std::vector<std::int64_t> held_;  // what the cache holds
  std::int64_t positions_read_ = 0;
};

}  // namespace halftone
