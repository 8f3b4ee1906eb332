// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "halftone/tokenizer/chat_template.h"

namespace halftone {

/// The ids that mark a text's beginning and end and that fill up rows (MiniMind's `<unk>`).
struct SpecialTokens {
  std::int64_t bos;
  std::int64_t eos;
  std::int64_t pad;
};

/// How encode() reads a part of a text that spells a special token, such as "</s>".
enum class SpecialTokenParsing {
  kText,    ///< as text, whatever it spells; decoding gives it back exactly
  kTokens,  ///< as the token
};

struct TokenizerState;

/// A byte-level BPE tokenizer in Hugging Face form. Gives the ids that the `tokenizers` package
/// gives for the same tokenizer.json. Immutable: copies share their state, and every member may be
/// called from several threads at once.
class Tokenizer {
 public:
  /// Reads FILE or FOLDER/tokenizer.json, and tokenizer_config.json beside it if there is one; a
  /// chat_template.jinja there comes before the latter's template.
  /// Throws UserError that names the file and the field.
  static Tokenizer load(const std::filesystem::path& file_or_folder);

  /// The same from the files' texts; `config_json` may be empty. `origin` stands for the file's
  /// name in errors.
  static Tokenizer from_json(std::string_view json, std::string_view config_json,
                             const std::string& origin);

  /// Writes tokenizer.json and tokenizer_config.json, each atomically, as they were loaded; makes
  /// the folder. Throws UserError or SystemError.
  void save(const std::filesystem::path& folder) const;

  /// Token ids of `text`, nothing added. Added tokens that are not special are found in the text in
  /// any case. Bytes that are not UTF-8 are encoded too, as they are.
  std::vector<std::int32_t> encode(std::string_view text,
                                   SpecialTokenParsing parsing = SpecialTokenParsing::kText) const;

  /// `text` as encode() takes it: in Unicode's form NFC where tokenizer.json says so.
  std::string normalized(std::string_view text) const;

  /// How often `text` spells a special token.
  std::uint64_t count_special_tokens(std::string_view text) const;

  /// The text of `ids`, each invalid part of UTF-8 replaced by U+FFFD. Ids outside the vocabulary
  /// give nothing.
  std::string decode(std::span<const std::int32_t> ids, bool skip_special_tokens = false) const;

  /// The same without the replacement, so exactly what was encoded.
  std::string decode_bytes(std::span<const std::int32_t> ids,
                           bool skip_special_tokens = false) const;

  /// One more than the largest id.
  std::int64_t vocab_size() const;

  /// As tokenizer_config.json says; what it leaves out goes by MiniMind's names: `<s>`, `</s>`,
  /// `<unk>`, or `<|im_start|>`, `<|im_end|>`, `<|endoftext|>`. Throws UserError when one is
  /// missing.
  SpecialTokens special_tokens() const;

  /// The id of a token as the vocabulary spells it (byte_alphabet.h), or nothing.
  std::optional<std::int32_t> token_to_id(std::string_view token) const;

  /// The vocabulary's spelling, or nothing when no token has this id.
  std::optional<std::string> id_to_token(std::int32_t id) const;

  /// Whether the token is marked special, or serves as bos, eos or pad.
  bool is_special(std::int32_t id) const;

  /// The text of tokenizer.json: equal texts encode equally.
  const std::string& json() const;

  /// The text of tokenizer_config.json, made up where none was loaded.
  const std::string& config_json() const;

  /// Ids of `messages` in the format of the tokenizer's chat template. The template's marks are
  /// tokens; what the messages say is text. Throws what chat_template() and ChatTemplate::render()
  /// throw.
  std::vector<std::int32_t> encode_chat(std::span<const ChatMessage> messages,
                                        ChatPrompt prompt = ChatPrompt::kAnswer) const;

  /// The same of a whole chat, to learn from. A token that begins before an answer is none of it.
  ChatIds encode_conversation(std::span<const ChatMessage> messages) const;

  /// As tokenizer_config.json says, else MiniMind's for these tokens. Throws UserError when it is
  /// none that recognise_chat_template() knows.
  const ChatTemplate& chat_template() const;
  bool has_chat_template() const;

 private:
  explicit Tokenizer(std::shared_ptr<const TokenizerState> state) : state_(std::move(state)) {}

  std::shared_ptr<const TokenizerState> state_;
};

/// Decodes ids one at a time into whole characters, as a text that is being written needs it: the
/// pieces together are decode() of all ids.
class StreamDecoder {
 public:
  explicit StreamDecoder(Tokenizer tokenizer, bool skip_special_tokens = true)
      : tokenizer_(std::move(tokenizer)), skip_special_tokens_(skip_special_tokens) {}

  /// The text that `id` completes; holds back the bytes of an unfinished character.
  std::string push(std::int32_t id);

  /// Returns the bytes that were held back and ends the stream. Another stream may begin.
  std::string flush();

 private:
  Tokenizer tokenizer_;
  bool skip_special_tokens_;
  std::string pending_;
};

}  // namespace halftone
