// SPDX-License-Identifier: Apache-2.0
#include "halftone/models/sampling.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numeric>

#include "halftone/core/error.h"
#include "halftone/core/random.h"

namespace halftone {
namespace {

/// The most likely tokens first, sorted only as far as requested: a choice seldom needs more than
/// the head of a vocabulary.
class LikeliestFirst {
 public:
  explicit LikeliestFirst(const std::vector<double>& logits)
      : logits_(logits), order_(logits.size()) {
    std::iota(order_.begin(), order_.end(), std::size_t{0});
  }

  /// The `rank`-th likeliest; of equals, the one with the lower id.
  std::size_t operator[](std::size_t rank) {
    while (sorted_ <= rank) sort_more();
    return order_[rank];
  }

 private:
  void sort_more() {
    const std::size_t end = std::min(order_.size(), std::max(kFirst, 4 * sorted_));
    const auto place = [&](std::size_t i) {
      return order_.begin() + static_cast<std::ptrdiff_t>(i);
    };
    const auto likelier = [&](std::size_t a, std::size_t b) {
      return logits_[a] > logits_[b] || (logits_[a] == logits_[b] && a < b);
    };
    if (end < order_.size()) std::nth_element(place(sorted_), place(end), order_.end(), likelier);
    std::sort(place(sorted_), place(end), likelier);
    sorted_ = end;
  }

  static constexpr std::size_t kFirst = 64;
  const std::vector<double>& logits_;
  std::vector<std::size_t> order_;
  std::size_t sorted_ = 0;
};

/// Index of the choice that `uniform`, in [0, 1), falls on among the likeliest that make top_p.
std::int64_t choice_at(double uniform, const std::vector<double>& logits,
                       const SamplingOptions& options) {
  const auto largest = std::max_element(logits.begin(), logits.end());  // the first of equals
  std::vector<double> weights(logits.size());                           // by id
  std::transform(logits.begin(), logits.end(), weights.begin(),
                 [&](double logit) { return std::exp((logit - *largest) / options.temperature); });
  const double total = std::accumulate(weights.begin(), weights.end(), 0.0);
  LikeliestFirst likeliest(logits);
  std::size_t kept = 0;
  double mass = 0.0;
  while (kept < logits.size() && (kept == 0 || mass < options.top_p * total))
    mass += weights[likeliest[kept++]];
  double left = uniform * mass;
  for (std::size_t rank = 0; rank < kept; ++rank)
    if ((left -= weights[likeliest[rank]]) < 0.0) return static_cast<std::int64_t>(likeliest[rank]);
  return static_cast<std::int64_t>(likeliest[kept - 1]);
}

}  // namespace

void check_sampling(const SamplingOptions& options) {
  if (!(options.temperature > 0.0) && !options.greedy)
    throw UserError(
        fmt::format("expected a temperature above 0, got {}; use greedy for the likeliest token",
                    options.temperature));
  if (!(options.top_p > 0.0 && options.top_p <= 1.0))
    throw UserError(fmt::format("expected top_p above 0 and at most 1, got {}", options.top_p));
}

std::int64_t sample_token(const std::vector<double>& logits, const SamplingOptions& options,
                          std::int64_t position) {
  if (options.greedy)  // the first of equals
    return std::max_element(logits.begin(), logits.end()) - logits.begin();
  const std::uint64_t word = random_word(options.seed, static_cast<std::uint64_t>(position));
  return choice_at(static_cast<double>(word >> 11U) * 0x1p-53, logits, options);
}

}  // namespace halftone
