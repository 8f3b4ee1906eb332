// SPDX-License-Identifier: Apache-2.0
#include "halftone/pretrain/multiple_choice.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <string_view>

#include "halftone/core/error.h"
#include "halftone/core/stopwatch.h"
#include "halftone/models/generate.h"
#include "halftone/nn/evaluation_mode.h"
#include "halftone/pretrain/non_finite_report.h"

namespace halftone {
namespace {

using torch::Tensor;
using Ids = std::vector<std::int64_t>;

constexpr const char* kAnswerFollows = "答案：";

Ids encode(const Tokenizer& tokenizer, const std::string& text) {
  const std::vector<std::int32_t> ids = tokenizer.encode(text);
  return {ids.begin(), ids.end()};
}

/// A text that the model has read, and what it says of the tokens that may follow.
class ReadText {
 public:
  /// Reads the end of `ids` that leaves room for `room` more.
  ReadText(CausalLM& model, Ids ids, std::int64_t room)
      : model_(model), cache_(model->make_cache(model->config().max_seq_len)) {
    const std::int64_t most = std::max<std::int64_t>(1, cache_.capacity() - room);
    const auto size = static_cast<std::int64_t>(ids.size());
    is_cut_ = size > most;
    if (is_cut_) ids.erase(ids.begin(), ids.end() - most);
    ids_ = std::move(ids);
    next_ = log_probabilities(ids_).back();
  }

  bool is_cut() const { return is_cut_; }

  /// The sum of the logarithms of the probabilities of `more`, which is not empty.
  double log_likelihood(const Ids& more) {
    const std::int64_t read = cache_.length();
    double sum = next_[more.front()].item<double>();
    if (more.size() > 1) {
      const std::vector<Tensor> rows = log_probabilities(Ids(more.begin(), more.end() - 1));
      for (std::size_t i = 1; i < more.size(); ++i) sum += rows[i - 1][more[i]].item<double>();
    }
    cache_.truncate(read);
    return sum;
  }

 private:
  /// Of the token behind each of `ids`: (V), fp64.
  std::vector<Tensor> log_probabilities(const Ids& ids) {
    const torch::Device device = model_->parameters().front().device();
    const Tensor input = torch::tensor(ids, torch::kLong).to(device).unsqueeze(0);
    const Tensor logits = model_->forward(input, &cache_).logits[0].to(torch::kCPU, torch::kDouble);
    if (!logits.isfinite().all().item<bool>()) {
      Ids all = ids_;
      if (&ids != &ids_) all.insert(all.end(), ids.begin(), ids.end());
      throw NonFiniteLogits(all);
    }
    return logits.log_softmax(-1).unbind(0);
  }

  CausalLM& model_;
  KvCache cache_;
  Ids ids_;
  Tensor next_;
  bool is_cut_ = false;
};

using ChoiceIds = std::array<Ids, kChoices>;

/// Log-likelihoods of what may stand behind `before`.
std::array<double, kChoices> likelihoods_behind(CausalLM& model, const Ids& before,
                                                const ChoiceIds& choices, bool& is_cut) {
  std::size_t longest = 0;
  for (const Ids& one : choices) longest = std::max(longest, one.size());
  const std::int64_t context = model->config().max_seq_len;
  if (static_cast<std::int64_t>(longest) > context)
    throw UserError(fmt::format(
        "an option of {} tokens does not fit into the model's context of {}", longest, context));
  ReadText text(model, before, static_cast<std::int64_t>(longest) - 1);
  is_cut = is_cut || text.is_cut();
  std::array<double, kChoices> values{};
  for (std::size_t i = 0; i < kChoices; ++i) values[i] = text.log_likelihood(choices[i]);
  return values;
}

std::size_t likeliest(const std::array<double, kChoices>& values) {
  return static_cast<std::size_t>(std::max_element(values.begin(), values.end()) - values.begin());
}

ChoiceAccuracy accuracy_of(std::int64_t right, std::int64_t questions) {
  const auto count = static_cast<double>(questions);
  ChoiceAccuracy result{.accuracy = static_cast<double>(right) / count};
  if (questions > 1)
    result.standard_error = std::sqrt(result.accuracy * (1 - result.accuracy) / (count - 1));
  return result;
}

ChoiceLikelihoods likelihoods_in(CausalLM& model, const Tokenizer& tokenizer,
                                 const ChoiceQuestion& question, const MixedPrecision& precision) {
  try {
    const auto region = precision.forward_context();
    return choice_likelihoods(model, tokenizer, question);
  } catch (const NonFiniteLogits& error) {
    const torch::Device device = model->parameters().front().device();
    const torch::NoGradGuard no_grad;
    const std::string origin = origin_of_non_finite(*model, [&] {
      const auto region = precision.forward_context();
      return model->forward(torch::tensor(error.ids).to(device).unsqueeze(0)).logits;
    });
    throw SystemError(fmt::format("{}: {}", error.what(), origin));
  }
}

}  // namespace

ChoiceLikelihoods choice_likelihoods(CausalLM& model, const Tokenizer& tokenizer,
                                     const ChoiceQuestion& question) {
  const torch::InferenceMode inference;
  const EvaluationMode mode(*model);
  const auto prompt = [&](const std::string& text) {
    Ids ids = encode(tokenizer, text + "\n" + kAnswerFollows);
    ids.insert(ids.begin(), tokenizer.special_tokens().bos);
    return ids;
  };
  std::string listed = question.question;
  ChoiceIds letters, texts;
  for (std::size_t i = 0; i < kChoices; ++i) {
    listed += fmt::format("\n{}. {}", kChoiceLetters[i], question.options[i]);
    letters[i] = encode(tokenizer, kChoiceLetters[i]);
    texts[i] = encode(tokenizer, question.options[i]);
  }
  ChoiceLikelihoods result{};
  result.letter = likelihoods_behind(model, prompt(listed), letters, result.is_cut);
  result.text = likelihoods_behind(model, prompt(question.question), texts, result.is_cut);
  for (std::size_t i = 0; i < kChoices; ++i)
    result.text[i] /= static_cast<double>(question.options[i].size());
  return result;
}

ChoiceResult score_choices(CausalLM& model, const Tokenizer& tokenizer,
                           const std::vector<ChoiceQuestion>& questions,
                           const MixedPrecision& precision,
                           const std::function<void(double share)>& on_progress) {
  const Stopwatch watch;
  const auto count = static_cast<std::int64_t>(questions.size());
  HALFTONE_CHECK(count > 0, "[multiple_choice] expected at least one question");
  std::int64_t by_letter = 0, by_text = 0, cut = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    const ChoiceQuestion& question = questions[static_cast<std::size_t>(i)];
    const ChoiceLikelihoods values = likelihoods_in(model, tokenizer, question, precision);
    by_letter += likeliest(values.letter) == question.answer ? 1 : 0;
    by_text += likeliest(values.text) == question.answer ? 1 : 0;
    cut += values.is_cut ? 1 : 0;
    if (on_progress) on_progress(static_cast<double>(i + 1) / static_cast<double>(count));
  }
  return {.letter = accuracy_of(by_letter, count),
          .text = accuracy_of(by_text, count),
          .questions = count,
          .cut = cut,
          .seconds = watch.seconds()};
}

}  // namespace halftone
