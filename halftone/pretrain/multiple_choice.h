// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "halftone/models/causal_lm.h"
#include "halftone/pretrain/choice_file.h"
#include "halftone/tokenizer/tokenizer.h"
#include "halftone/train/mixed_precision.h"

namespace halftone {

/// Log-likelihoods in nats of what may follow a question.
struct ChoiceLikelihoods {
  std::array<double, kChoices> letter;  // of "A" .. "D" behind the question and all options
  std::array<double, kChoices> text;    // of an option's text behind the question, per byte of it
  bool is_cut = false;                  // the question's beginning did not fit into the context
};

/// Tokens of the question and of what follows it are encoded apart. Behind the question stand, in
/// C-Eval's words, the options ("A. ...", a line each; for letters only) and "答案：".
ChoiceLikelihoods choice_likelihoods(CausalLM& model, const Tokenizer& tokenizer,
                                     const ChoiceQuestion& question);

struct ChoiceAccuracy {
  double accuracy = 0;
  std::optional<double> standard_error;  // of a mean of that many; none for a single question
};

struct ChoiceResult {
  ChoiceAccuracy letter;  // the answer's letter is the likeliest
  ChoiceAccuracy text;    // the answer's text is the likeliest, per byte
  std::int64_t questions = 0;
  std::int64_t cut = 0;  // questions that did not fit into the context
  double chance = 1.0 / kChoices;
  double seconds = 0;
};

/// Of equals the first option counts. `on_progress` is called with the share that is done. Throws
/// SystemError, which names the tensor that went wrong first, for logits that are not finite.
ChoiceResult score_choices(CausalLM& model, const Tokenizer& tokenizer,
                           const std::vector<ChoiceQuestion>& questions,
                           const MixedPrecision& precision,
                           const std::function<void(double share)>& on_progress = {});

}  // namespace halftone
