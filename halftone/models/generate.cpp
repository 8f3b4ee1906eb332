// SPDX-License-Identifier: Apache-2.0
#include "halftone/models/generate.h"

#include <ATen/ops/tensor.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "halftone/core/error.h"
#include "halftone/core/random.h"

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

/// Index of the choice that `uniform`, in [0, 1), falls on among the likeliest that make top_p.
std::int64_t sample(const Tensor& logits, const SamplingOptions& options, double uniform) {
  const Tensor wide = logits.to(torch::kCPU, torch::kDouble).contiguous();
  const double* values = wide.const_data_ptr<double>();
  const auto count = static_cast<std::size_t>(wide.numel());
  std::vector<std::size_t> order(count);
  std::iota(order.begin(), order.end(), std::size_t{0});
  const auto likelier = [&](std::size_t a, std::size_t b) {
    return values[a] > values[b] || (values[a] == values[b] && a < b);
  };
  if (options.greedy)
    return static_cast<std::int64_t>(*std::min_element(order.begin(), order.end(), likelier));
  std::sort(order.begin(), order.end(), likelier);
  std::vector<double> weights(count);
  const double largest = values[order.front()];
  double total = 0.0;
  for (std::size_t i = 0; i < count; ++i)
    total += weights[i] = std::exp((values[order[i]] - largest) / options.temperature);
  std::size_t kept = 0;
  double mass = 0.0;
  while (kept < count && (kept == 0 || mass < options.top_p * total)) mass += weights[kept++];
  double left = uniform * mass;
  for (std::size_t i = 0; i < kept; ++i)
    if ((left -= weights[i]) < 0.0) return static_cast<std::int64_t>(order[i]);
  return static_cast<std::int64_t>(order[kept - 1]);
}

/// Puts the model in evaluation mode while it lives.
class EvaluationMode {
 public:
  explicit EvaluationMode(MiniMindLM& model) : model_(model), was_training_(model->is_training()) {
    model_->eval();
  }
  ~EvaluationMode() { model_->train(was_training_); }
  EvaluationMode(const EvaluationMode&) = delete;
  EvaluationMode& operator=(const EvaluationMode&) = delete;

 private:
  MiniMindLM& model_;
  bool was_training_;
};

/// Logits (V) of the token after `ids`, which follow what the cache holds.
Tensor next_logits(MiniMindLM& model, const std::vector<std::int64_t>& ids, KvCache& cache) {
  const torch::Device device = model->parameters().front().device();
  const Tensor input = torch::tensor(ids, torch::kLong).to(device).unsqueeze(0);
  const Tensor logits = model->forward(input, &cache).logits[0][-1];
  if (!logits.isfinite().all().item<bool>())
    throw SystemError("the model's logits are not finite: its weights have overflowed");
  return logits;
}

}  // namespace

void generate(MiniMindLM& model, std::vector<std::int64_t> prompt, const SamplingOptions& options,
              const std::function<bool(std::int64_t id)>& on_token) {
  check(model->config(), prompt, options);
  const torch::InferenceMode inference;
  const EvaluationMode evaluation(model);
  const std::int64_t limit = model->config().max_seq_len;
  const auto keep_last = [&](std::int64_t count) {
    const auto size = static_cast<std::int64_t>(prompt.size());
    if (size > count) prompt.erase(prompt.begin(), prompt.begin() + (size - count));
  };
  keep_last(limit);
  KvCache cache = model->make_cache(
      std::min<std::int64_t>(limit, static_cast<std::int64_t>(prompt.size()) +
                                        std::max<std::int64_t>(options.max_new_tokens, 0)));
  std::vector<std::int64_t> unread = prompt;
  for (std::int64_t i = 0; i < options.max_new_tokens; ++i) {
    const double uniform =
        static_cast<double>(random_word(options.seed, static_cast<std::uint64_t>(i)) >> 11U) *
        0x1p-53;
    const std::int64_t id = sample(next_logits(model, unread, cache), options, uniform);
    if (id == options.eos || !on_token(id)) return;
    prompt.push_back(id);
    unread = {id};
    if (cache.length() == cache.capacity()) {
      keep_last(std::max<std::int64_t>(1, limit / 2));
      cache.clear();
      unread = prompt;
    }
  }
}

}  // namespace halftone
