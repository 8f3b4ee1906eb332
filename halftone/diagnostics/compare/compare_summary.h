// SPDX-License-Identifier: Apache-2.0
// What the text and the page of a comparison have in common: its order and its words.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "halftone/diagnostics/compare/compare.h"

namespace halftone {

/// relative_error / tolerance: 0 where there is no error; inf where the error is not finite, every
/// value overflowed, or there is an error and no tolerance.
double error_ratio(const TensorComparison& tensor);

/// Overflow first, then underflow, imprecise, fine and incomparable; of one verdict those with the
/// most values that overflow, then those with the largest error_ratio(). They point into
/// `comparison`.
std::vector<const TensorComparison*> worst_first(const Comparison& comparison);

/// How many tensors have which verdict; `wrong`: overflow, underflow or imprecise.
struct VerdictCounts {
  std::int64_t fine = 0;
  std::int64_t incomparable = 0;
  std::int64_t wrong = 0;
};
VerdictCounts count_verdicts(const Comparison& comparison);

/// "16-mixed needs another loss scale on this step: between 2¹¹ and 2¹⁷." One sentence.
std::string verdict_sentence(const Comparison& comparison);

/// What became of the judged precision's lines: "computed again with these lines: every tensor is
/// fine", or that it was not.
std::string verification_sentence(const Judgement& judgement);

/// Whether a tensor could be stored in the format: nothing overflows, and it loses no more than
/// rounding takes away, NumberFormat::unit_roundoff(). Of formats with a scale of their own, what
/// becomes zero must weigh no more than that.
bool could_store(const WhatIf& what_if);

/// One format of CompareOptions::what_if over all tensors that have it.
struct WhatIfSummary {
  std::string format;
  std::int64_t tensors = 0;
  std::int64_t fitting = 0;                 // could_store()
  const TensorComparison* worst = nullptr;  // overflow first, then the largest error; into
                                            // `comparison`
  StorageLoss worst_loss;                   // of `worst`
};
std::vector<WhatIfSummary> what_if_summaries(const Comparison& comparison);

/// The most that any gradient loses, of a parameter or of an activation.
struct GradientShares {
  double flushed = 0;
  double overflowed = 0;
};
GradientShares largest_gradient_shares(const Comparison& comparison);

/// Of an activation its module, "(root)" for the network itself, and the rest of its name: what
/// computed it. Of a parameter's gradient its name alone.
struct TensorWords {
  std::string where;  // "layers.0.feed_forward"
  std::string what;   // "halftone::linear #0.0"
};
TensorWords words_of(const TensorComparison& tensor);

/// "0", "<0.01 %", "3.2 %", "41 %".
std::string shown_share(double share);
/// "0.8x", "14x", ">9999x", "inf".
std::string shown_ratio(double ratio);
/// error_ratio() so; "-" of tensors that are incomparable.
std::string shown_ratio(const TensorComparison& tensor);
/// Five decimals: "0.99998"; "1" for what rounds to it.
std::string shown_cosine(double cosine);
/// That of `tensor`; "-" where it is incomparable.
std::string shown_cosine(const TensorComparison& tensor);
/// "0.0125", "3.1e-5", "inf".
std::string shown_error(double error);
/// That of `tensor`; "inf" where every value overflowed, "-" where it is incomparable.
std::string shown_error(const TensorComparison& tensor);
/// "2¹¹"; of what is no power of two the number.
std::string shown_scale(double scale);

}  // namespace halftone
