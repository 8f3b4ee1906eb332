// SPDX-License-Identifier: Apache-2.0
// MiniMind's chat format of the V2 family:
//   <s>system\n{text}</s>\n                       always there, with a default text
//   <s>user\n{text}</s>\n<s>assistant\n           each question
//   {text}</s>\n                                  each answer
// (2504 has <|im_start|> and <|im_end|> in place of <s> and </s>.)
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace halftone {

struct ChatMessage {
  std::string role;  // "system" (only as the first), "user" or "assistant"
  std::string content;
};

/// A chat as one text, and which parts of it the messages said.
struct ChatText {
  std::string text;
  std::vector<std::pair<std::size_t, std::size_t>> contents;  // begin and end, in order

  /// Whether any byte of [begin, end) comes from a message.
  bool is_content(std::size_t begin, std::size_t end) const;
};

struct ChatTemplate {
  std::string bos = "<s>";
  std::string eos = "</s>";
  std::string default_system = "你是 MiniMind，是一个有用的人工智能助手。";

  /// The text of `messages`. After a question it ends where the answer begins. Throws UserError for
  /// another role, or for a system message that is not the first.
  ChatText render(std::span<const ChatMessage> messages) const;

  /// The same as a Jinja template for tokenizer_config.json.
  std::string jinja() const;
};

/// Reads the default system text out of a template of this family that uses `bos` and `eos`;
/// nothing when `jinja` is of another family (with tools or thinking, say).
std::optional<ChatTemplate> recognise_chat_template(std::string_view jinja, std::string bos,
                                                    std::string eos);

}  // namespace halftone
