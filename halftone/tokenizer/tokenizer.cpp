// SPDX-License-Identifier: Apache-2.0
#include "halftone/tokenizer/tokenizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "halftone/core/error.h"
#include "halftone/core/text.h"
#include "halftone/system/atomic_file.h"
#include "halftone/system/file.h"
#include "halftone/tokenizer/byte_alphabet.h"
#include "halftone/tokenizer/composed_text_impl.h"
#include "halftone/tokenizer/pre_tokenizer.h"
#include "halftone/tokenizer/tokenizer_state.h"
#include "halftone/tokenizer/unfinished_utf8_impl.h"

namespace halftone {
namespace {

constexpr std::uint64_t kMaxFileBytes = std::uint64_t{256} << 20U;
constexpr const char* kFileName = "tokenizer.json";
constexpr const char* kConfigName = "tokenizer_config.json";
constexpr const char* kChatTemplateName = "chat_template.jinja";  // instead of a key of the former

/// Encodes one text; holds the buffers that its words share.
class Encoder {
 public:
  Encoder(const TokenizerState& state, SpecialTokenParsing parsing)
      : state_(state),
        added_(parsing == SpecialTokenParsing::kTokens ? state.all_added : state.plain_added) {}

  void add(std::string_view text) {
    split(text, added_.first, [this](std::string_view rest) {
      const std::string composed = state_.composes ? composed_text(rest) : std::string();
      split(state_.composes ? composed : rest, added_.second,
            [this](std::string_view part) { encode_part(part); });
    });
  }

  void add_token(std::int32_t id) { ids_.push_back(id); }

  std::vector<std::int32_t> take() { return std::move(ids_); }

 private:
  template <class Between>
  void split(std::string_view text, const AddedTokenMatcher& added, Between between) {
    std::size_t at = 0;
    while (const auto match = added.find(text, at)) {
      between(text.substr(at, match->begin - at));
      ids_.push_back(match->id);
      at = match->end;
    }
    between(text.substr(at));
  }

  void encode_part(std::string_view part) {
    if (part.empty()) return;
    if (state_.add_prefix_space && part[0] != ' ') {
      const std::string prefixed = " " + std::string(part);
      return encode_words(prefixed);
    }
    encode_words(part);
  }

  void encode_words(std::string_view text) {
    for (std::size_t begin = 0; begin < text.size();) {
      const std::size_t end = word_end(text, begin, state_.words);
      encode_word(text.substr(begin, end - begin));
      begin = end;
    }
  }

  void encode_word(std::string_view word) {
    if (state_.ignore_merges) {
      const std::int32_t whole = state_.find(to_byte_alphabet(word));
      if (whole != kNoToken && !state_.is_special(whole)) return ids_.push_back(whole);
    }
    word_.clear();
    for (const char byte : word) push_byte(static_cast<std::uint8_t>(byte));
    state_.merges.apply(word_);
    ids_.insert(ids_.end(), word_.begin(), word_.end());
  }

  void push_byte(std::uint8_t byte) {
    const std::int32_t id = state_.byte_ids[byte];
    if (id != kNoToken) return word_.push_back(id);
    const bool fused = state_.fuse_unk && !word_.empty() && word_.back() == state_.unk;
    if (state_.unk != kNoToken && !fused) word_.push_back(state_.unk);
  }

  const TokenizerState& state_;
  const AddedTokens& added_;
  std::vector<std::int32_t> ids_;
  std::vector<std::int32_t> word_;
};

/// Encodes a chat: the stretches of text between the marks that are special tokens.
class ChatEncoder {
 public:
  ChatEncoder(const TokenizerState& state, ChatText chat) : state_(state), chat_(std::move(chat)) {}

  ChatIds encode() {
    std::size_t done = 0;
    for (std::size_t at = 0; const auto match = state_.special_added.find(chat_.text, at);) {
      at = match->end;
      if (chat_.is_content(match->begin, match->end)) continue;
      add_text(done, match->begin);
      add({match->id}, is_answer(match->begin) ? 0 : 1);
      done = match->end;
    }
    add_text(done, chat_.text.size());
    return std::move(result_);
  }

 private:
  /// The answer that `at` lies in or before.
  const TextRange* next_answer(std::size_t at) {
    while (next_ < chat_.answers.size() && chat_.answers[next_].second <= at) ++next_;
    return next_ < chat_.answers.size() ? &chat_.answers[next_] : nullptr;
  }

  bool is_answer(std::size_t at) {
    const TextRange* const answer = next_answer(at);
    return answer != nullptr && answer->first <= at;
  }

  void add_text(std::size_t begin, std::size_t end) {
    if (begin == end) return;
    const std::string_view text = std::string_view(chat_.text).substr(begin, end - begin);
    const std::vector<std::int32_t> ids = encoded(text);
    const TextRange* const answer = next_answer(begin);
    // An answer ends with a mark: what begins in this stretch goes on to its end.
    if (answer == nullptr || answer->first >= end) return add(ids, ids.size());
    add(ids, answer->first <= begin ? 0 : ids_before(answer->first - begin, text, ids));
  }

  std::vector<std::int32_t> encoded(std::string_view text) const {
    Encoder encoder(state_, SpecialTokenParsing::kText);
    encoder.add(text);
    return encoder.take();
  }

  /// How many ids begin in the first `count` bytes of `text`.
  std::size_t ids_before(std::size_t count, std::string_view text,
                         const std::vector<std::int32_t>& ids) const {
    std::size_t bytes = 0, before = 0;
    for (const std::int32_t id : ids) {
      before += bytes < count ? 1 : 0;
      bytes += state_.tokens[static_cast<std::size_t>(id)].bytes.size();
    }
    // Where the vocabulary lacks bytes, or the encoder adds some, they do not tell.
    return bytes == text.size() ? before
                                : std::min(ids.size(), encoded(text.substr(0, count)).size());
  }

  void add(const std::vector<std::int32_t>& ids, std::size_t before_answer) {
    result_.ids.insert(result_.ids.end(), ids.begin(), ids.end());
    for (std::size_t i = 0; i < ids.size(); ++i)
      result_.is_answer.push_back(i < before_answer ? 0 : 1);
  }

  const TokenizerState& state_;
  ChatText chat_;
  std::size_t next_ = 0;  // of its answers
  ChatIds result_;
};

const TokenizerState::Token* token_at(const TokenizerState& state, std::int32_t id) {
  if (id < 0 || static_cast<std::size_t>(id) >= state.tokens.size()) return nullptr;
  const TokenizerState::Token& token = state.tokens[static_cast<std::size_t>(id)];
  return token.spelling.empty() ? nullptr : &token;
}

}  // namespace

Tokenizer Tokenizer::load(const std::filesystem::path& file_or_folder) {
  std::error_code ignored;
  const bool folder = std::filesystem::is_directory(file_or_folder, ignored);
  const std::filesystem::path file = folder ? file_or_folder / kFileName : file_or_folder;
  if (!std::filesystem::exists(file, ignored))
    throw UserError(fmt::format(
        "{}: expected a tokenizer.json or a folder that holds one, found nothing; `halftone "
        "tokenizer train` makes one",
        file.string()));
  const auto text_beside = [&](const char* name) {
    const std::filesystem::path other = file.parent_path() / name;
    return std::filesystem::exists(other, ignored) ? read_file(other, kMaxFileBytes) : "";
  };
  std::string config = text_beside(kConfigName);
  if (const std::string chat = text_beside(kChatTemplateName); !chat.empty())
    config = with_chat_template(config, chat, file.string());
  return from_json(read_file(file, kMaxFileBytes), config, file.string());
}

Tokenizer Tokenizer::from_json(std::string_view json, std::string_view config_json,
                               const std::string& origin) {
  return Tokenizer(
      std::make_shared<const TokenizerState>(build_tokenizer_state(json, config_json, origin)));
}

void Tokenizer::save(const std::filesystem::path& folder) const {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error)
    throw UserError(fmt::format("{}: cannot create this folder: {}; choose another",
                                folder.string(), error.message()));
  write_file_atomically(folder / kConfigName, state_->config_json);
  write_file_atomically(folder / kFileName, state_->json);
}

std::vector<std::int32_t> Tokenizer::encode(std::string_view text,
                                            SpecialTokenParsing parsing) const {
  Encoder encoder(*state_, parsing);
  encoder.add(text);
  return encoder.take();
}

std::string Tokenizer::normalized(std::string_view text) const {
  return state_->composes ? composed_text(text) : std::string(text);
}

std::uint64_t Tokenizer::count_special_tokens(std::string_view text) const {
  std::uint64_t count = 0;
  for (std::size_t at = 0; const auto match = state_->special_added.find(text, at);) {
    at = match->end;
    ++count;
  }
  return count;
}

std::string Tokenizer::decode(std::span<const std::int32_t> ids, bool skip_special_tokens) const {
  return replace_invalid_utf8(decode_bytes(ids, skip_special_tokens));
}

std::string Tokenizer::decode_bytes(std::span<const std::int32_t> ids,
                                    bool skip_special_tokens) const {
  std::string bytes;
  for (const std::int32_t id : ids) {
    const TokenizerState::Token* token = token_at(*state_, id);
    if (token != nullptr && !(skip_special_tokens && token->special)) bytes += token->bytes;
  }
  return bytes;
}

std::int64_t Tokenizer::vocab_size() const {
  return static_cast<std::int64_t>(state_->tokens.size());
}

SpecialTokens Tokenizer::special_tokens() const {
  for (const auto& [id, key] :
       {std::pair(state_->bos, "bos_token"), std::pair(state_->eos, "eos_token")})
    if (id == kNoToken)
      throw UserError(
          fmt::format("{}: expected a {}, found none; name one in the tokenizer_config.json "
                      "beside it",
                      state_->origin, key));
  return {state_->bos, state_->eos, state_->pad};
}

std::optional<std::int32_t> Tokenizer::token_to_id(std::string_view token) const {
  const std::int32_t id = state_->find(token);
  return id == kNoToken ? std::nullopt : std::optional(id);
}

std::optional<std::string> Tokenizer::id_to_token(std::int32_t id) const {
  const TokenizerState::Token* token = token_at(*state_, id);
  return token == nullptr ? std::nullopt : std::optional(token->spelling);
}

bool Tokenizer::is_special(std::int32_t id) const { return state_->is_special(id); }

const std::string& Tokenizer::json() const { return state_->json; }

const std::string& Tokenizer::config_json() const { return state_->config_json; }

bool Tokenizer::has_chat_template() const { return state_->chat.has_value(); }

const ChatTemplate& Tokenizer::chat_template() const {
  if (!state_->chat)
    throw UserError(
        fmt::format("{}: its chat template is none of those that are known (MiniMind's of V2, "
                    "2504, 2510 and V3, Qwen2.5's, Qwen3's and Llama 3's); take chat_template out "
                    "of its tokenizer_config.json to use MiniMind's",
                    state_->origin));
  return *state_->chat;
}

std::vector<std::int32_t> Tokenizer::encode_chat(std::span<const ChatMessage> messages,
                                                 ChatPrompt prompt) const {
  return ChatEncoder(*state_, chat_template().render(messages, prompt)).encode().ids;
}

ChatIds Tokenizer::encode_conversation(std::span<const ChatMessage> messages) const {
  return ChatEncoder(*state_, chat_template().render(messages)).encode();
}

std::string StreamDecoder::push(std::int32_t id) {
  pending_ += tokenizer_.decode_bytes({&id, 1}, skip_special_tokens_);
  const std::size_t ready = pending_.size() - unfinished_utf8(pending_);
  std::string text = replace_invalid_utf8(pending_.substr(0, ready));
  pending_.erase(0, ready);
  return text;
}

std::string StreamDecoder::flush() {
  std::string text = replace_invalid_utf8(pending_);
  pending_.clear();
  return text;
}

}  // namespace halftone
