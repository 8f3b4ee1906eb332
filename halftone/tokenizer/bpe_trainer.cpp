// SPDX-License-Identifier: Apache-2.0
#include "halftone/tokenizer/bpe_trainer.h"

#include <fmt/format.h>

#include <algorithm>
#include <unordered_set>

#include "halftone/core/error.h"
#include "halftone/core/log.h"
#include "halftone/tokenizer/byte_alphabet.h"
#include "halftone/tokenizer/merge_learner.h"
#include "halftone/tokenizer/pre_tokenizer.h"
#include "halftone/tokenizer/tokenizer_json.h"

namespace halftone {
namespace {

// Special tokens, then the byte alphabet in the order of its characters.
std::vector<std::string> first_tokens(const std::vector<std::string>& special_tokens) {
  std::vector<std::string> alphabet;
  alphabet.reserve(256);
  for (int byte = 0; byte < 256; ++byte)
    alphabet.push_back(byte_character(static_cast<std::uint8_t>(byte)));
  std::sort(alphabet.begin(), alphabet.end());  // UTF-8 sorts like code points
  std::vector<std::string> tokens;
  std::unordered_set<std::string> known;
  const auto append = [&](const std::vector<std::string>& source) {
    for (const std::string& token : source)
      if (known.insert(token).second) tokens.push_back(token);
  };
  append(special_tokens);
  append(alphabet);
  return tokens;
}

TokenizerSpec make_spec(const MergeLearner& learner, std::size_t special_tokens) {
  TokenizerSpec spec;
  const std::vector<std::string>& vocab = learner.vocab();
  for (std::size_t id = 0; id < vocab.size(); ++id)
    spec.vocab.emplace_back(vocab[id], static_cast<std::int32_t>(id));
  for (const auto& [left, right] : learner.merges())
    spec.merges.emplace_back(vocab[left], vocab[right]);
  for (std::size_t id = 0; id < special_tokens; ++id)
    spec.added_tokens.push_back({.id = static_cast<std::int32_t>(id), .content = vocab[id]});
  return spec;
}

TokenizerConfig make_config(const std::vector<std::string>& special_tokens) {
  TokenizerConfig config;
  if (special_tokens.empty()) return config;
  config.pad_token = config.unk_token = special_tokens[0];
  if (special_tokens.size() < 3) return config;
  config.bos_token = special_tokens[1];
  config.eos_token = special_tokens[2];
  ChatTemplate chat{.bos = special_tokens[1], .eos = special_tokens[2]};
  config.chat_template = chat.jinja();
  return config;
}

}  // namespace

BpeTrainer::BpeTrainer(BpeTrainerOptions options) : options_(std::move(options)) {
  for (const std::string& token : options_.special_tokens)
    if (token.empty()) throw UserError("special tokens must not be empty");
  const auto least = static_cast<std::int64_t>(first_tokens(options_.special_tokens).size());
  if (options_.vocab_size < least)
    throw UserError(fmt::format(
        "a vocabulary of {} tokens has no room for the special tokens and the 256 bytes; the "
        "smallest vocab_size is {}",
        options_.vocab_size, least));
}

void BpeTrainer::add_text(std::string_view text) {
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = word_end(text, begin);
    const std::string_view word = text.substr(begin, end - begin);
    const auto known = words_.find(word);
    if (known != words_.end())
      ++known->second;
    else
      words_.emplace(word, 1);
    begin = end;
  }
}

Tokenizer BpeTrainer::train() const {
  if (words_.empty())
    throw UserError("expected text to train a tokenizer on, found none; is the data empty?");
  MergeLearner learner(first_tokens(options_.special_tokens));
  for (const auto& [word, count] : words_) learner.add_word(word, count);
  learner.learn(static_cast<std::size_t>(options_.vocab_size), options_.min_frequency,
                options_.progress);
  const auto learned = static_cast<std::int64_t>(learner.vocab().size());
  if (learned < options_.vocab_size)
    log_note(fmt::format("the data is too small for {} tokens; learned {}", options_.vocab_size,
                         learned));
  std::unordered_set<std::string> special(options_.special_tokens.begin(),
                                          options_.special_tokens.end());
  const TokenizerSpec spec = make_spec(learner, special.size());
  return Tokenizer::from_json(write_tokenizer_json(spec),
                              write_tokenizer_config(make_config(options_.special_tokens), spec),
                              "the trained tokenizer");
}

}  // namespace halftone
