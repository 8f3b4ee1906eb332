// SPDX-License-Identifier: Apache-2.0
#include "halftone/tokenizer/chat_template.h"

#include <fmt/format.h>

#include <algorithm>

#include "halftone/core/error.h"
#include "halftone/system/json_reader_impl.h"
#include "halftone/tokenizer/chat_text_impl.h"
#include "halftone/tokenizer/python_json_impl.h"
#include "halftone/tokenizer/python_strip_impl.h"

namespace halftone {
namespace {

using nlohmann::ordered_json;

constexpr std::string_view kThinkBegin = "<think>";
constexpr std::string_view kThinkEnd = "</think>";

std::string_view without_leading_breaks(std::string_view text) {
  text.remove_prefix(std::min(text.find_first_not_of('\n'), text.size()));
  return text;
}

std::string_view without_trailing_breaks(std::string_view text) {
  return text.substr(0, text.find_last_not_of('\n') + 1);
}

/// An answer with its thought apart, which may stand in the content too.
struct Answer {
  std::string_view thought;
  std::string_view said;
};

Answer answer_of(const ChatMessage& message) {
  const std::string_view content = message.content;
  if (message.reasoning_content) return {*message.reasoning_content, content};
  const std::size_t first_end = content.find(kThinkEnd);
  if (first_end == std::string_view::npos) return {{}, content};
  std::string_view thought = without_trailing_breaks(content.substr(0, first_end));
  const std::size_t begin = thought.rfind(kThinkBegin);
  if (begin != std::string_view::npos) thought.remove_prefix(begin + kThinkBegin.size());
  return {without_leading_breaks(thought),
          without_leading_breaks(content.substr(content.rfind(kThinkEnd) + kThinkEnd.size()))};
}

bool is_tool_response(const ChatMessage& message) {
  return message.content.starts_with("<tool_response>") &&
         message.content.ends_with("</tool_response>");
}

std::size_t last_question(std::span<const ChatMessage> messages) {
  for (std::size_t i = messages.size(); i-- > 0;)
    if (messages[i].role == "user" && !is_tool_response(messages[i])) return i;
  return messages.empty() ? 0 : messages.size() - 1;
}

/// Appends to a ChatText.
class ChatWriter {
 public:
  explicit ChatWriter(const ChatTemplate& format) : format_(format) {}

  void mark(std::string_view text) { chat_.text += text; }
  void content(std::string_view text) {
    if (format_.trims) text = python_strip(text);
    const std::size_t begin = chat_.text.size();
    chat_.text += text;
    if (!text.empty()) chat_.contents.emplace_back(begin, chat_.text.size());
  }
  void header(std::string_view role) {
    chat_.text.append(format_.bos).append(role).append(format_.header_end);
  }
  void turn(std::string_view role, std::string_view text) {
    header(role);
    content(text);
    end_turn();
  }
  void end_turn() { chat_.text.append(format_.eos).append(format_.turn_end); }
  void begin_answer() { answer_ = chat_.text.size(); }
  /// The end of a turn too.
  void end_answer() {
    chat_.text += format_.eos;
    chat_.answers.emplace_back(answer_, chat_.text.size());
    chat_.text += format_.turn_end;
  }
  ChatText take() { return std::move(chat_); }

 private:
  const ChatTemplate& format_;
  ChatText chat_;
  std::size_t answer_ = 0;
};

/// Writes messages, which it calls by their number from 1 when one does not fit.
class ChatRenderer {
 public:
  ChatRenderer(const ChatTemplate& format, std::span<const ChatMessage> messages)
      : format_(format),
        messages_(messages),
        last_question_(last_question(messages)),
        writer_(format) {}

  ChatText render(ChatPrompt prompt) {
    const bool has_system = !messages_.empty() && messages_[0].role == "system";
    check_parts();
    if (!messages_.empty()) writer_.mark(format_.chat_begin);
    write_system(has_system);
    for (at_ = has_system ? 1 : 0; at_ < messages_.size(); ++at_) write_message();
    write_prompt(prompt);
    return writer_.take();
  }

 private:
  [[noreturn]] void fail(const std::string& what) const {
    throw UserError(fmt::format("chat message {}: {}", at_ + 1, what));
  }

  void check_parts() {
    for (at_ = 0; at_ < messages_.size(); ++at_) {
      const ChatMessage& message = messages_[at_];
      if (!format_.has_tools && !(message.tools.empty() && message.tool_calls.empty()))
        fail("has tools, for which the tokenizer's chat template has no place; take them out");
      if (format_.thinking == ChatThinking::kNone &&
          !message.reasoning_content.value_or("").empty())
        fail(
            "has reasoning_content, for which the tokenizer's chat template has no place; take it "
            "out");
      if (at_ > 0 && !message.tools.empty())
        fail("has tools; expected them in the first message of a chat");
    }
    at_ = 0;
  }

  ordered_json parse(const std::string& text, const char* what) const {
    const std::string origin = fmt::format("chat message {}: {}", at_ + 1, what);
    ordered_json value = parse_ordered_json(text, origin, {.remedy = "expected a JSON array"});
    if (!value.is_array())
      throw UserError(
          fmt::format("{} must be a JSON array, but it is a JSON {}", origin, value.type_name()));
    return value;
  }

  void write_system(bool has_system) {
    const bool has_tools = !messages_.empty() && !messages_[0].tools.empty();
    const std::string& text = has_system ? messages_[0].content : format_.default_system;
    if (has_tools) return write_tools(has_system);
    if (has_system || format_.question_opens_answer || !text.empty()) writer_.turn("system", text);
  }

  void write_tools(bool has_system) {
    const ordered_json tools = parse(messages_[0].tools, "tools");
    writer_.header("system");
    if (has_system) {
      writer_.content(messages_[0].content);
      writer_.mark("\n\n");
    } else if (format_.default_system_before_tools) {
      writer_.content(format_.default_system);
      writer_.mark("\n\n");
    }
    writer_.mark(kBeforeTools);
    for (const ordered_json& tool : tools) {
      writer_.mark("\n");
      writer_.content(python_json(tool));
    }
    writer_.mark(kAfterTools);
    writer_.end_turn();
  }

  void write_message() {
    const ChatMessage& message = messages_[at_];
    if (message.role == "assistant") return write_answer(message);
    if (message.role == "tool" && format_.has_tools) return write_tool_response(message);
    if (message.role == "user") return write_question(message);
    if (message.role == "system" && !format_.question_opens_answer)
      return writer_.turn("system", message.content);
    fail(fmt::format("has the role {}; expected \"user\", \"assistant\"{}, or \"system\"{}",
                     quoted_json(message.role), format_.has_tools ? ", \"tool\"" : "",
                     format_.question_opens_answer ? " for the first message" : ""));
  }

  void write_question(const ChatMessage& message) {
    writer_.turn("user", message.content);
    if (format_.question_opens_answer) writer_.header("assistant");
  }

  void write_answer(const ChatMessage& message) {
    if (format_.question_opens_answer) {
      const bool has_header = at_ > 0 && messages_[at_ - 1].role == "user";
      writer_.begin_answer();
      writer_.content(message.content);
      return has_header ? writer_.end_answer() : writer_.end_turn();
    }
    writer_.header("assistant");
    writer_.begin_answer();
    write_said(message);
    writer_.end_answer();
  }

  void write_said(const ChatMessage& message) {
    Answer answer{{}, message.content};
    if (format_.thinking != ChatThinking::kNone) answer = answer_of(message);
    if (shows_thought(answer)) {
      const std::string_view thought = without_leading_breaks(answer.thought);
      writer_.mark("<think>\n");
      writer_.content(without_trailing_breaks(thought));
      writer_.mark("\n</think>\n\n");
      writer_.content(without_leading_breaks(answer.said));
    } else {
      writer_.content(answer.said);
    }
    if (!message.tool_calls.empty()) write_calls(message, !answer.said.empty());
  }

  bool shows_thought(const Answer& answer) const {
    if (format_.thinking != ChatThinking::kAfterLastQuestion)
      return format_.thinking == ChatThinking::kAlways;
    const bool is_last = at_ + 1 == messages_.size();
    return at_ > last_question_ && (is_last || !answer.thought.empty());
  }

  void write_calls(const ChatMessage& message, bool follows_text) {
    for (const ordered_json& entry : parse(message.tool_calls, "tool_calls")) {
      const bool is_wrapped = entry.is_object() && entry.contains("function");
      const ordered_json& call = is_wrapped ? entry["function"] : entry;
      if (!call.is_object() || !call.contains("name") || !call["name"].is_string() ||
          !call.contains("arguments"))
        fail("has a tool call that is not {\"name\": \"...\", \"arguments\": {...}}");
      writer_.mark(follows_text ? "\n<tool_call>\n{\"name\": \"" : "<tool_call>\n{\"name\": \"");
      writer_.content(call["name"].get<std::string>());
      writer_.mark("\", \"arguments\": ");
      const ordered_json& arguments = call["arguments"];
      const bool is_json = arguments.is_string() && !format_.quotes_argument_texts;
      writer_.content(is_json ? arguments.get<std::string>() : python_json(arguments));
      writer_.mark("}\n</tool_call>");
      follows_text = true;
    }
  }

  // Answers of several tools are one turn of the user's.
  void write_tool_response(const ChatMessage& message) {
    const auto is_tool = [&](std::size_t i) {
      return i < messages_.size() && messages_[i].role == "tool";
    };
    if (at_ == 0 || !is_tool(at_ - 1)) writer_.mark(format_.bos + "user");
    writer_.mark("\n<tool_response>\n");
    writer_.content(message.content);
    writer_.mark("\n</tool_response>");
    if (!is_tool(at_ + 1)) writer_.end_turn();
  }

  void write_prompt(ChatPrompt prompt) {
    if (prompt == ChatPrompt::kNone) return;
    const bool thinks = prompt == ChatPrompt::kThinking;
    if (thinks && format_.thinking == ChatThinking::kNone)
      throw UserError(
          "the tokenizer's chat template has no place for thoughts; ask for an answer without");
    if (format_.question_opens_answer) return;
    writer_.header("assistant");
    if (format_.thinking == ChatThinking::kNone) return;
    if (!thinks) writer_.mark("<think>\n\n</think>\n\n");
    if (thinks && format_.thinking == ChatThinking::kAlways) writer_.mark("<think>\n");
  }

  const ChatTemplate& format_;
  std::span<const ChatMessage> messages_;
  std::size_t last_question_;
  std::size_t at_ = 0;
  ChatWriter writer_;
};

ChatTemplate with_im_marks(std::string default_system) {
  return {.bos = "<|im_start|>",
          .eos = "<|im_end|>",
          .default_system = std::move(default_system),
          .question_opens_answer = false,
          .has_tools = true};
}

}  // namespace

bool ChatText::is_content(std::size_t begin, std::size_t end) const {
  const auto next =
      std::upper_bound(contents.begin(), contents.end(), begin,
                       [](std::size_t at, const TextRange& range) { return at < range.second; });
  return next != contents.end() && next->first < end;
}

ChatTemplate ChatTemplate::minimind_v2() { return {}; }

ChatTemplate ChatTemplate::minimind_2504() {
  return {
      .bos = "<|im_start|>", .eos = "<|im_end|>", .default_system = "You are a helpful assistant"};
}

ChatTemplate ChatTemplate::minimind_2510() { return with_im_marks("You are a helpful assistant"); }

ChatTemplate ChatTemplate::minimind_v3() {
  ChatTemplate format = with_im_marks("");
  format.thinking = ChatThinking::kAlways;
  return format;
}

ChatTemplate ChatTemplate::qwen2() {
  ChatTemplate format =
      with_im_marks("You are Qwen, created by Alibaba Cloud. You are a helpful assistant.");
  format.default_system_before_tools = true;
  format.quotes_argument_texts = true;
  return format;
}

ChatTemplate ChatTemplate::qwen3() {
  ChatTemplate format = with_im_marks("");
  format.thinking = ChatThinking::kAfterLastQuestion;
  return format;
}

ChatTemplate ChatTemplate::llama3() {
  return {.bos = "<|start_header_id|>",
          .header_end = "<|end_header_id|>\n\n",
          .eos = "<|eot_id|>",
          .turn_end = "",
          .chat_begin = "<|begin_of_text|>",
          .trims = true,
          .default_system = "",
          .question_opens_answer = false};
}

ChatText ChatTemplate::render(std::span<const ChatMessage> messages, ChatPrompt prompt) const {
  return ChatRenderer(*this, messages).render(prompt);
}

}  // namespace halftone
