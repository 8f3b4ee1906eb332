// SPDX-License-Identifier: Apache-2.0
#include "halftone/pretrain/chat_session.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "halftone/core/error.h"

namespace halftone {
namespace {

using Ids = std::vector<std::int64_t>;

bool begins_with(const Ids& ids, const Ids& prefix) {
  return prefix.size() <= ids.size() && std::equal(prefix.begin(), prefix.end(), ids.begin());
}

std::int64_t size_of(const Ids& ids) { return static_cast<std::int64_t>(ids.size()); }

}  // namespace

ChatSession::ChatSession(CausalLM model, Tokenizer tokenizer, std::string system)
    : tokenizer_(std::move(tokenizer)),
      context_(model->config().max_seq_len),
      generator_(std::move(model)) {
  if (!system.empty()) messages_.push_back({"system", std::move(system)});
  encode({{"user", ""}});  // a template that is not understood is refused before anything is read
}

Ids ChatSession::encode(const std::vector<ChatMessage>& messages) const {
  const std::vector<std::int32_t> ids = tokenizer_.encode_chat(messages);
  return {ids.begin(), ids.end()};
}

/// The template may have its marks beside an answer, never its own reading of the answer's text:
/// the ids that the model made stay as they are. Where that can't be told (a template that changes
/// what was said before), the whole conversation is encoded.
Ids ChatSession::prompt_ids() const {
  const std::size_t count = messages_.size();
  if (before_.empty() || count < 2) return encode(messages_);
  std::vector<ChatMessage> silent = messages_;
  silent[count - 2].content.clear();  // the last answer
  const Ids ids = encode(silent);
  if (!begins_with(ids, before_)) return encode(messages_);
  Ids all = said_;
  all.insert(all.end(), ids.begin() + size_of(before_), ids.end());
  return all;
}

std::int64_t ChatSession::forget_what_does_not_fit(std::int64_t reserve) {
  const std::size_t first = messages_.front().role == "system" ? 1 : 0;
  std::int64_t forgotten = 0;
  while (size_of(prompt_ids()) + reserve > context_ && messages_.size() > first + 2) {
    const auto oldest = messages_.begin() + static_cast<std::ptrdiff_t>(first);
    messages_.erase(oldest, oldest + 2);
    before_.clear();
    said_.clear();
    ++forgotten;
  }
  const std::int64_t least = size_of(prompt_ids());
  if (least >= context_) {
    messages_.pop_back();
    throw UserError(fmt::format(
        "the question has {} tokens with what the chat template adds; expected at most {}, one "
        "less than the model's context",
        least, context_ - 1));
  }
  return forgotten;
}

ChatAnswer ChatSession::ask(const std::string& question, const SamplingOptions& sampling,
                            const std::function<bool(std::string_view piece)>& on_text) {
  messages_.push_back({"user", question});
  ChatAnswer answer;
  // Room for an answer of some length; a longer one may go on to the end of the context.
  answer.forgotten_turns =
      forget_what_does_not_fit(std::min(sampling.max_new_tokens, context_ / 4));
  const Ids prompt = prompt_ids();
  Ids made;
  StreamDecoder decoder(tokenizer_);
  const auto give = [&](const std::string& piece) {
    answer.text += piece;
    return on_text(piece);
  };
  answer.end = generator_.extend(prompt, sampling, [&](std::int64_t id) {
    made.push_back(id);
    return give(decoder.push(static_cast<std::int32_t>(id)));
  });
  give(decoder.flush());
  answer.tokens = size_of(made);
  before_ = encode(messages_);
  said_ = prompt;
  said_.insert(said_.end(), made.begin(), made.end());
  messages_.push_back({"assistant", answer.text});
  return answer;
}

}  // namespace halftone
