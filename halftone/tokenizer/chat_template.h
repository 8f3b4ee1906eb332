// SPDX-License-Identifier: Apache-2.0
// How a chat becomes one text. The formats differ in what ChatTemplate says as data:
//
//   MiniMind V2    <s>system\n{text}</s>\n                      always there, with a default text
//                  <s>user\n{text}</s>\n<s>assistant\n          each question
//                  {text}</s>\n                                 each answer
//   2504           the same with <|im_start|> and <|im_end|>
//   2510, ChatML   <|im_start|>{role}\n{text}<|im_end|>\n       each turn; tools stand in the
//   system's V3, Qwen3      as 2510; an answer begins with <think>\n{reasoning}\n</think>\n\n
//   Llama 3        <|begin_of_text|>, then for each turn
//                  <|start_header_id|>{role}<|end_header_id|>\n\n{text, trimmed}<|eot_id|>
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "halftone/core/chat_message.h"

namespace halftone {

/// Begin and end of a part of a text, in bytes.
using TextRange = std::pair<std::size_t, std::size_t>;

/// A chat as one text, and which parts of it the messages said.
struct ChatText {
  std::string text;
  std::vector<TextRange> contents;  ///< what messages said, in order
  /// What the assistant has to say: from behind its header to behind the end mark, in order. An
  /// answer of V2 that follows no question has no header, and is none.
  std::vector<TextRange> answers;

  /// Whether any byte of [begin, end) comes from a message.
  bool is_content(std::size_t begin, std::size_t end) const;
};

/// What stands behind the messages.
enum class ChatPrompt {
  kNone,      ///< nothing (V2's header of the answer belongs to the question)
  kAnswer,    ///< where the assistant answers: its header, and an empty thought where it thinks
  kThinking,  ///< where the assistant thinks first
};

/// Which answers begin with a thought.
enum class ChatThinking {
  kNone,
  kAlways,             ///< each, if it is an empty one
  kAfterLastQuestion,  ///< what was thought before an earlier question is left out
};

struct ChatTemplate {
  std::string bos = "<s>";        ///< before the role of a turn
  std::string header_end = "\n";  ///< behind it
  std::string eos = "</s>";       ///< behind what was said
  std::string turn_end = "\n";
  std::string chat_begin;  ///< before the first turn
  bool trims = false;      ///< what messages say, of white space at both ends
  std::string default_system = "你是 MiniMind，是一个有用的人工智能助手。";  ///< empty: none
  bool question_opens_answer = true;  ///< V2: the header of an answer ends the question before it
  bool has_tools = false;
  bool default_system_before_tools = false;  ///< else tools are described without it
  bool quotes_argument_texts = false;        ///< of a call; else such a text is taken for JSON
  ChatThinking thinking = ChatThinking::kNone;

  static ChatTemplate minimind_v2();
  static ChatTemplate minimind_2504();
  static ChatTemplate minimind_2510();
  static ChatTemplate minimind_v3();
  static ChatTemplate qwen2();
  static ChatTemplate qwen3();
  static ChatTemplate llama3();

  /// The text of `messages`. Throws UserError that names the message: a role or a part that this
  /// format has no place for, V2's system message that is not the first, tools that are no JSON.
  ChatText render(std::span<const ChatMessage> messages,
                  ChatPrompt prompt = ChatPrompt::kNone) const;

  /// The same as a Jinja template for tokenizer_config.json. Its variables are those of Hugging
  /// Face: messages, tools, add_generation_prompt, and enable_thinking or open_thinking.
  std::string jinja() const;
};

/// The format of a Jinja template, whose marks are `bos` and `eos`: one that jinja() wrote, or that
/// of MiniMind V2, 2504, 2510 and V3, of Qwen2.5, Qwen3 and Llama 3, each with any default system
/// text. `bos` of Llama 3 is what a chat begins with. They are compared whole: nothing for every
/// other template.
std::optional<ChatTemplate> recognise_chat_template(std::string_view jinja, const std::string& bos,
                                                    const std::string& eos);

}  // namespace halftone
