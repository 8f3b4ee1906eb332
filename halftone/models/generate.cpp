// SPDX-License-Identifier: Apache-2.0
#include "halftone/models/generate.h"

#include <ATen/ops/tensor.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "halftone/core/error.h"
#include "halftone/core/random.h"
#include "halftone/nn/evaluation_mode.h"

namespace halftone {
namespace {

using torch::Tensor;

void check(const ModelConfig& config, const std::vector<std::int64_t>& prompt,
           const SamplingOptions& options) {
  if (!(options.temperature > 0.0) && !options.greedy)
    throw UserError(
        fmt::format("expected a temperature above 0, got {}; use greedy for the likeliest token",
                    options.temperature));
  if (!(options.top_p > 0.0 && options.top_p <= 1.0))
    throw UserError(fmt::format("expected top_p above 0 and at most 1, got {}", options.top_p));
  if (prompt.empty()) throw UserError("expected at least one token to start from, got none");
  for (const std::int64_t id : prompt)
    if (id < 0 || id >= config.vocab_size)
      throw UserError(fmt::format("expected token ids below {}, the model's vocab_size, got {}",
                                  config.vocab_size, id));
}

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
std::int64_t sample(const std::vector<double>& logits, const SamplingOptions& options,
                    double uniform) {
  const auto largest = std::max_element(logits.begin(), logits.end());  // the first of equals
  if (options.greedy) return largest - logits.begin();
  std::vector<double> weights(logits.size());  // by id
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

/// Logits of the token after `ids`, which follow what the cache holds.
std::vector<double> next_logits(MiniMindLM& model, const std::vector<std::int64_t>& ids,
                                torch::Device device, KvCache& cache) {
  const Tensor input = torch::tensor(ids, torch::kLong).to(device).unsqueeze(0);
  const Tensor last = model->forward(input, &cache).logits[0][-1];
  const Tensor wide = last.to(torch::kCPU, torch::kDouble).contiguous();
  const auto* values = wide.const_data_ptr<double>();
  std::vector<double> logits(values, values + wide.numel());
  return logits;
}

bool all_finite(const std::vector<double>& logits) {
  return std::all_of(logits.begin(), logits.end(), [](double x) { return std::isfinite(x); });
}

}  // namespace

NonFiniteLogits::NonFiniteLogits(std::vector<std::int64_t> the_ids)
    : SystemError("the model's logits are not finite"), ids(std::move(the_ids)) {}

void generate(MiniMindLM& model, std::vector<std::int64_t> prompt, const SamplingOptions& options,
              const std::function<bool(std::int64_t id)>& on_token) {
  check(model->config(), prompt, options);
  const torch::InferenceMode inference;
  const EvaluationMode evaluation(*model);
  const torch::Device device = model->parameters().front().device();
  const std::int64_t limit = model->config().max_seq_len;
  const auto keep_last = [&](std::int64_t count) {
    const auto size = static_cast<std::int64_t>(prompt.size());
    if (size > count) prompt.erase(prompt.begin(), prompt.begin() + (size - count));
  };
  keep_last(limit);
  KvCache cache = model->make_cache(
      std::min<std::int64_t>(limit, static_cast<std::int64_t>(prompt.size()) +
                                        std::max<std::int64_t>(options.max_new_tokens, 0)));
  std::vector<std::int64_t> lazy = prompt;
  for (std::int64_t i = 0; i < options.max_new_tokens; ++i) {
    const double uniform =
        static_cast<double>(random_word(options.seed, static_cast<std::uint64_t>(i)) >> 11U) *
        0x1p-53;
    const std::vector<double> logits = next_logits(model, lazy, device, cache);
    if (!all_finite(logits)) throw NonFiniteLogits(prompt);
    const std::int64_t id = sample(logits, options, uniform);
    if (id == options.eos || !on_token(id)) return;
    prompt.push_back(id);
    lazy = {id};
    if (cache.length() == cache.capacity()) {
      keep_last(std::max<std::int64_t>(1, limit / 2));
      cache.clear();
      lazy = prompt;
    }
  }
}

}  // namespace halftone
