// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "halftone/tokenizer/byte_alphabet.h"
#include "halftone/tokenizer/tokenizer.h"
#include "halftone/tokenizer/tokenizer_json.h"

namespace halftone::test {

/// A vocabulary of the bytes of `alphabet`, a few merges of those that it has, and `added`.
inline TokenizerSpec small_vocabulary(std::string_view alphabet,
                                      const std::vector<AddedToken>& added) {
  TokenizerSpec spec;
  for (AddedToken token : added) {
    token.id = static_cast<std::int32_t>(spec.vocab.size());
    spec.vocab.emplace_back(token.content, token.id);
    spec.added_tokens.push_back(token);
  }
  std::set<std::string> known;
  const auto add = [&](const std::string& token) {
    if (known.insert(token).second)
      spec.vocab.emplace_back(token, static_cast<std::int32_t>(spec.vocab.size()));
  };
  for (const char byte : alphabet) add(to_byte_alphabet(std::string(1, byte)));
  for (const auto& [left, right] : {std::pair("o", "o"), {"m", "oo"}, {"a", "a"}, {"aa", "aa"}})
    if (known.contains(left) && known.contains(right)) {
      add(std::string(left) + right);
      spec.merges.emplace_back(left, right);
    }
  return spec;
}

inline std::string all_bytes() {
  std::string bytes;
  for (int byte = 0; byte < 256; ++byte) bytes += static_cast<char>(byte);
  return bytes;
}

/// The tokenizer_config.json for `format`, whose marks are those of a chat.
inline TokenizerConfig config_for(const ChatTemplate& format) {
  return {.bos_token = format.chat_begin.empty() ? format.bos : format.chat_begin,
          .eos_token = format.eos,
          .chat_template = format.jinja()};
}

inline std::vector<AddedToken> marks_of(const ChatTemplate& format) {
  std::vector<AddedToken> marks{{.content = format.bos}, {.content = format.eos}};
  if (!format.chat_begin.empty()) marks.push_back({.content = format.chat_begin});
  return marks;
}

/// A tokenizer of all bytes with the marks of `format`.
inline Tokenizer small_tokenizer(const ChatTemplate& format) {
  const TokenizerSpec spec = small_vocabulary(all_bytes(), marks_of(format));
  return Tokenizer::from_json(write_tokenizer_json(spec),
                              write_tokenizer_config(config_for(format), spec), "small");
}

}  // namespace halftone::test
