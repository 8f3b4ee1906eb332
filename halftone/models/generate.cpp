// SPDX-License-Identifier: Apache-2.0
#include "halftone/models/generate.h"

#include <ATen/ops/full.h>
#include <ATen/ops/tensor.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <utility>

#include "halftone/core/error.h"
#include "halftone/nn/evaluation_mode.h"

namespace halftone {
namespace {

using torch::Tensor;
using Ids = std::vector<std::int64_t>;

/// Rows that matvec() and the int8 kernels multiply together, each as it would be alone.
constexpr std::size_t kIndependentRows = 8;

std::int64_t size_of(const Ids& ids) { return static_cast<std::int64_t>(ids.size()); }

void check_prompt(const ModelConfig& config, const Ids& prompt) {
  if (prompt.empty()) throw UserError("expected at least one token to start from, got none");
  for (const std::int64_t id : prompt)
    if (id < 0 || id >= config.vocab_size)
      throw UserError(fmt::format("expected token ids below {}, the model's vocab_size, got {}",
                                  config.vocab_size, id));
}

torch::Device device_of(const CausalLM& model) { return model->parameters().front().device(); }

/// The last position's logits of each row of `logits` (B, T, V), on the host.
std::vector<std::vector<double>> last_logits(const Tensor& logits) {
  const Tensor wide = logits.select(1, -1).to(torch::kCPU, torch::kDouble).contiguous();
  const auto* values = wide.const_data_ptr<double>();
  std::vector<std::vector<double>> rows;
  for (std::int64_t b = 0; b < wide.size(0); ++b)
    rows.emplace_back(values + b * wide.size(1), values + (b + 1) * wide.size(1));
  return rows;
}

/// Logits of the token after `ids`, which follow what the cache holds.
std::vector<double> next_logits(CausalLM& model, const Ids& ids, torch::Device device,
                                KvCache& cache) {
  const Tensor input = torch::tensor(ids, torch::kLong).to(device).unsqueeze(0);
  return last_logits(model->next_logits(input, &cache)).front();
}

bool all_finite(const std::vector<double>& logits) {
  return std::all_of(logits.begin(), logits.end(), [](double x) { return std::isfinite(x); });
}

/// A text that is being written.
class Sequence {
 public:
  Sequence(const CausalLM& model, Ids prompt, const SamplingOptions& options)
      : options_(options),
        context_(model->config().max_seq_len),
        ids_(std::move(prompt)),
        cache_(0, 0) {
    keep_last(context_);
    const std::int64_t most = std::max<std::int64_t>(options.max_new_tokens, 0);
    cache_ = model->make_cache(std::min(context_, size_of(ids_) + std::min(most, context_)));
    unread_ = ids_;
  }

  /// What the cache does not hold yet.
  const Ids& unread() const { return unread_; }
  KvCache& cache() { return cache_; }

  /// The next id; nothing where the text ends. `logits` are those after unread().
  std::optional<std::int64_t> choose(const std::vector<double>& logits) {
    if (!all_finite(logits)) throw NonFiniteLogits(ids_);
    const std::int64_t id = sample_token(logits, options_, added_);
    if (id == options_.eos) {
      end_ = TextEnd::kEndToken;
      return std::nullopt;
    }
    return id;
  }

  void add(std::int64_t id) {
    ids_.push_back(id);
    unread_ = {id};
    ++added_;
    if (cache_.length() < cache_.capacity()) return;
    keep_last(std::max<std::int64_t>(1, context_ / 2));
    cache_.clear();
    unread_ = ids_;
  }

  bool is_long_enough() const { return added_ >= options_.max_new_tokens; }
  TextEnd end() const { return end_; }

 private:
  void keep_last(std::int64_t count) {
    if (size_of(ids_) > count) ids_.erase(ids_.begin(), ids_.end() - count);
  }

  SamplingOptions options_;
  std::int64_t context_;
  Ids ids_;
  Ids unread_;
  KvCache cache_;
  std::int64_t added_ = 0;
  TextEnd end_ = TextEnd::kLength;
};

/// generate_batch() at work.
class BatchGeneration {
 public:
  BatchGeneration(CausalLM& model, const std::vector<Ids>& prompts,
                  const BatchGenerationOptions& options)
      : model_(model), prompts_(prompts), options_(options), device_(device_of(model)) {}

  template <class OnText>
  bool run(const OnText& on_text) {
    for (fill(); !running_.empty(); fill()) {
      step();
      for (auto done = finished_.find(given_); done != finished_.end();
           done = finished_.find(given_)) {
        on_text(given_++, done->second);
        finished_.erase(done);
      }
      if (options_.on_step && !options_.on_step(tokens_)) return false;
    }
    return true;
  }

 private:
  struct Running {
    std::size_t index;
    std::unique_ptr<Sequence> sequence;
    GeneratedText text;
    bool has_ended = false;
  };

  void fill() {
    while (next_ < prompts_.size() &&
           running_.size() < static_cast<std::size_t>(options_.batch_size))
      running_.push_back(
          {.index = next_,
           .sequence = std::make_unique<Sequence>(model_, prompts_[next_++], options_.sampling)});
  }

  /// One token for each text.
  void step() {
    std::vector<Running*> together;
    for (Running& one : running_) {
      if (one.sequence->is_long_enough()) {
        one.has_ended = true;
      } else if (one.sequence->unread().size() == 1) {
        together.push_back(&one);
      } else {
        extend(one, next_logits(model_, one.sequence->unread(), device_, one.sequence->cache()));
      }
    }
    const std::size_t most = device_.is_cpu() ? kIndependentRows : together.size();
    for (std::size_t first = 0; first < together.size(); first += most)
      step_together(std::span(together).subspan(first, std::min(most, together.size() - first)));
    retire();
  }

  void step_together(std::span<Running*> rows) {
    std::vector<KvCache*> caches;
    Ids ids;
    for (Running* row : rows) {
      caches.push_back(&row->sequence->cache());
      ids.push_back(row->sequence->unread().front());
    }
    KvCache cache = KvCache::of_rows(caches);
    const Tensor input = torch::tensor(ids, torch::kLong).to(device_).unsqueeze(1);
    const auto logits = last_logits(model_->next_logits(input, &cache));
    for (std::size_t i = 0; i < rows.size(); ++i) extend(*rows[i], logits[i]);
  }

  void extend(Running& one, const std::vector<double>& logits) {
    const std::optional<std::int64_t> id = one.sequence->choose(logits);
    one.has_ended = !id;
    if (!id) return;
    one.text.ids.push_back(*id);
    one.sequence->add(*id);
    ++tokens_;
  }

  void retire() {
    for (Running& one : running_) {
      one.has_ended = one.has_ended || one.sequence->is_long_enough();
      if (!one.has_ended) continue;
      one.text.end = one.sequence->end();
      finished_.emplace(one.index, std::move(one.text));
    }
    std::erase_if(running_, [](const Running& one) { return one.has_ended; });
  }

  CausalLM& model_;
  const std::vector<Ids>& prompts_;
  const BatchGenerationOptions& options_;
  torch::Device device_;
  std::vector<Running> running_;
  std::map<std::size_t, GeneratedText> finished_;
  std::size_t next_ = 0;   // prompt that begins next
  std::size_t given_ = 0;  // texts that the caller has
  std::int64_t tokens_ = 0;
};

}  // namespace

NonFiniteLogits::NonFiniteLogits(std::vector<std::int64_t> the_ids)
    : SystemError("the model's logits are not finite"), ids(std::move(the_ids)) {}

TextEnd generate(CausalLM& model, std::vector<std::int64_t> prompt, const SamplingOptions& options,
                 const std::function<bool(std::int64_t id)>& on_token) {
  check_sampling(options);
  check_prompt(model->config(), prompt);
  const torch::InferenceMode inference;
  const EvaluationMode evaluation(*model);
  const torch::Device device = device_of(model);
  Sequence text(model, std::move(prompt), options);
  while (!text.is_long_enough()) {
    const std::optional<std::int64_t> id =
        text.choose(next_logits(model, text.unread(), device, text.cache()));
    if (!id) break;
    if (!on_token(*id)) return TextEnd::kStopped;
    text.add(*id);
  }
  return text.end();
}

GeneratedText generate_after_rows(CausalLM& model, const Tensor& rows,
                                  const SamplingOptions& options) {
  check_sampling(options);
  const std::int64_t context = model->config().max_seq_len;
  HALFTONE_CHECK(
      rows.dim() == 3 && rows.size(0) == 1 && rows.size(1) > 0 && rows.size(1) <= context,
      "[generate_after_rows] expected (1, T, dim) of 1 to ", context, " rows, got ", rows.sizes());
  const torch::InferenceMode inference;
  const EvaluationMode evaluation(*model);
  const std::int64_t most = std::clamp<std::int64_t>(options.max_new_tokens, 0, context);
  KvCache cache = model->make_cache(std::min(context, rows.size(1) + most));
  GeneratedText text;
  Tensor unread = rows;
  while (size_of(text.ids) < options.max_new_tokens) {
    text.end = TextEnd::kContext;
    if (cache.length() + unread.size(1) > context) break;
    const Tensor hidden = model->hidden_of_rows(unread, &cache).hidden.slice(1, -1);
    const std::vector<double> logits = last_logits(model->logits(hidden)).front();
    if (!all_finite(logits)) throw NonFiniteLogits(text.ids);
    const std::int64_t id = sample_token(logits, options, size_of(text.ids));
    text.end = TextEnd::kEndToken;
    if (id == options.eos) break;
    text.end = TextEnd::kLength;
    text.ids.push_back(id);
    unread =
        model->embedded(torch::full({1, 1}, id, torch::dtype(torch::kLong).device(rows.device())));
  }
  return text;
}

bool generate_batch(CausalLM& model, const std::vector<std::vector<std::int64_t>>& prompts,
                    const BatchGenerationOptions& options,
                    const std::function<void(std::size_t index, const GeneratedText&)>& on_text) {
  check_sampling(options.sampling);
  if (options.batch_size < 1)
    throw UserError(fmt::format("expected a batch of 1 or more, got {}", options.batch_size));
  for (const Ids& prompt : prompts) check_prompt(model->config(), prompt);
  const torch::InferenceMode inference;
  const EvaluationMode evaluation(*model);
  return BatchGeneration(model, prompts, options).run(on_text);
}

CachedGenerator::CachedGenerator(CausalLM model)
    : model_(std::move(model)), cache_(model_->make_cache(model_->config().max_seq_len)) {}

TextEnd CachedGenerator::extend(const std::vector<std::int64_t>& prompt,
                                const SamplingOptions& options,
                                const std::function<bool(std::int64_t id)>& on_token) {
  check_sampling(options);
  check_prompt(model_->config(), prompt);
  HALFTONE_CHECK(size_of(prompt) <= cache_.capacity(), "[generate] expected a prompt of at most ",
                 cache_.capacity(), " tokens, got ", prompt.size());
  const torch::InferenceMode inference;
  const EvaluationMode evaluation(*model_);
  const torch::Device device = device_of(model_);
  // One token at least is read, for its logits.
  const auto common = std::mismatch(held_.begin(), held_.end(), prompt.begin(), prompt.end()).first;
  const std::int64_t kept = std::min<std::int64_t>(common - held_.begin(), size_of(prompt) - 1);
  cache_.truncate(kept);
  held_.resize(static_cast<std::size_t>(kept));
  Ids unread(prompt.begin() + kept, prompt.end());
  for (std::int64_t added = 0; added < options.max_new_tokens; ++added) {
    if (cache_.length() + size_of(unread) > cache_.capacity()) return TextEnd::kContext;
    const std::vector<double> logits = next_logits(model_, unread, device, cache_);
    positions_read_ += size_of(unread);
    held_.insert(held_.end(), unread.begin(), unread.end());
    if (!all_finite(logits)) throw NonFiniteLogits(held_);
    const std::int64_t id = sample_token(logits, options, added);
    if (id == options.eos) return TextEnd::kEndToken;
    if (!on_token(id)) return TextEnd::kStopped;
    unread = {id};
  }
  return TextEnd::kLength;
}

}  // namespace halftone
