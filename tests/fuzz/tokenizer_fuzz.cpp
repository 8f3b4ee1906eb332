// SPDX-License-Identifier: Apache-2.0
// Any bytes as tokenizer.json and, behind a zero byte, tokenizer_config.json: a tokenizer that
// encodes, decodes and writes chats, or a UserError.
#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "fuzz_check.h"
#include "halftone/tokenizer/byte_alphabet.h"
#include "halftone/tokenizer/tokenizer.h"
#include "halftone/tokenizer/tokenizer_json.h"

namespace {

using halftone::ChatMessage;
using halftone::SpecialTokenParsing;
using halftone::StreamDecoder;
using halftone::Tokenizer;
using halftone::TokenizerSpec;
using halftone::test::must_succeed;
using halftone::test::require;
using halftone::test::succeeds;

/// Whether ids say exactly what was encoded: each byte has a token, a text is not changed, and no
/// added token stands for other bytes than the vocabulary's token of that name.
bool is_lossless(const Tokenizer& tokenizer, const TokenizerSpec& spec) {
  for (int byte = 0; byte < 256; ++byte) {
    const auto value = static_cast<std::uint8_t>(byte);
    const auto id = tokenizer.token_to_id(halftone::byte_character(value));
    if (!id || tokenizer.decode_bytes({&*id, 1}) != std::string(1, static_cast<char>(value)))
      return false;
  }
  return !spec.add_prefix_space && !spec.composes &&
         std::all_of(spec.added_tokens.begin(), spec.added_tokens.end(), [](const auto& token) {
           return halftone::from_byte_alphabet(token.content).value_or(token.content) ==
                  token.content;
         });
}

void check_text(const Tokenizer& tokenizer, const std::string& text, bool is_lossless) {
  for (const auto parsing : {SpecialTokenParsing::kText, SpecialTokenParsing::kTokens}) {
    const std::vector<std::int32_t> ids = tokenizer.encode(text, parsing);
    if (is_lossless) require(tokenizer.decode_bytes(ids) == text, "ids decode to the text");
    StreamDecoder stream(tokenizer, /*skip_special_tokens=*/false);
    std::string pieces;
    for (const std::int32_t id : ids) pieces += stream.push(id);
    require(pieces + stream.flush() == tokenizer.decode(ids), "pieces make up the decoded text");
  }
  tokenizer.count_special_tokens(text);
}

const std::vector<std::vector<ChatMessage>>& chats() {
  static const std::vector<std::vector<ChatMessage>> chats{
      {{"user", "the moon"}, {"assistant", "明月</s>"}},
      {{"system", "short"}, {"user", "a"}, {"assistant", "<think>\nb\n</think>\n\nc"}},
      {{"system", "s", {}, R"([{"name": "f"}])"},
       {"user", "q"},
       {"assistant", "", "why", "", R"([{"name": "f", "arguments": {"x": [1, 2.0, null]}}])"},
       {"tool", "1"},
       {"assistant", "one"}}};
  return chats;
}

void check_chats(const Tokenizer& tokenizer, bool is_lossless) {
  for (const std::vector<ChatMessage>& chat : chats())
    succeeds([&] {
      const std::string text = tokenizer.chat_template().render(chat).text;
      const halftone::ChatIds encoded = tokenizer.encode_conversation(chat);
      require(encoded.ids.size() == encoded.is_answer.size(), "each id is said or not");
      if (is_lossless)
        require(tokenizer.decode_bytes(encoded.ids) == text, "a chat's ids decode to its text");
    });
}

void check_written(const std::string& json, const std::string& config_json) {
  const TokenizerSpec spec = halftone::parse_tokenizer_json(json, "input");
  const std::string written = halftone::write_tokenizer_json(spec);
  const TokenizerSpec again = halftone::parse_tokenizer_json(written, "written");
  require(halftone::write_tokenizer_json(again) == written, "tokenizer.json is written as it was");
  const auto config = halftone::parse_tokenizer_config(config_json, "input");
  const std::string config_written = halftone::write_tokenizer_config(config, spec);
  const auto config_again = halftone::parse_tokenizer_config(config_written, "written");
  require(halftone::write_tokenizer_config(config_again, spec) == config_written,
          "tokenizer_config.json is written as it was");
}

void check(const Tokenizer& tokenizer, const std::string& input) {
  const TokenizerSpec spec = halftone::parse_tokenizer_json(tokenizer.json(), "input");
  const bool exact = is_lossless(tokenizer, spec);
  const std::string word(200, 'a');  // longer than what is merged by scanning
  for (const std::string& text :
       {std::string("<s>the moon's 明月\xFF  \n </s>"), word + "moon" + word, input})
    check_text(tokenizer, text, exact);
  check_chats(tokenizer, exact);
  const Tokenizer saved = Tokenizer::from_json(tokenizer.json(), tokenizer.config_json(), "saved");
  require(saved.encode(input) == tokenizer.encode(input), "what is saved encodes as it did");
  check_written(tokenizer.json(), tokenizer.config_json());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t bytes) {
  const std::string input(reinterpret_cast<const char*>(data), bytes);
  const std::size_t end = std::min(input.find('\0'), input.size());
  const std::string json = input.substr(0, end);
  const std::string config_json = end < input.size() ? input.substr(end + 1) : "";
  std::optional<Tokenizer> tokenizer;
  if (succeeds([&] { tokenizer = Tokenizer::from_json(json, config_json, "input"); }))
    must_succeed([&] { check(*tokenizer, input); });
  return 0;
}
