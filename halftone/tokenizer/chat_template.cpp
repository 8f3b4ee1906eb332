// SPDX-License-Identifier: Apache-2.0
#include "halftone/tokenizer/chat_template.h"

#include <fmt/format.h>

#include <algorithm>

#include "halftone/core/error.h"

namespace halftone {
namespace {

// As the inside of a Jinja string literal in single quotes.
std::string escape(std::string_view text) {
  std::string escaped;
  for (const char c : text) {
    if (c == '\\' || c == '\'') escaped += '\\';
    if (c == '\n')
      escaped += "\\n";
    else
      escaped += c;
  }
  return escaped;
}

std::string unescape(std::string_view literal) {
  std::string text;
  for (std::size_t i = 0; i < literal.size(); ++i) {
    if (literal[i] != '\\' || i + 1 == literal.size())
      text += literal[i];
    else
      text += literal[++i] == 'n' ? '\n' : literal[i];
  }
  return text;
}

}  // namespace

bool ChatText::is_content(std::size_t begin, std::size_t end) const {
  return std::any_of(contents.begin(), contents.end(), [&](const auto& content) {
    return begin < content.second && content.first < end;
  });
}

ChatText ChatTemplate::render(std::span<const ChatMessage> messages) const {
  ChatText chat;
  const auto add_content = [&](const std::string& content) {
    chat.contents.emplace_back(chat.text.size(), chat.text.size() + content.size());
    chat.text += content;
  };
  std::string system = default_system;
  if (!messages.empty() && messages[0].role == "system") {
    system = messages[0].content;
    messages = messages.subspan(1);
  }
  chat.text = bos + "system\n";
  add_content(system);
  chat.text += eos + "\n";
  for (const ChatMessage& message : messages) {
    if (message.role != "user" && message.role != "assistant")
      throw UserError(
          fmt::format("a chat message has the role \"{}\"; expected \"user\", \"assistant\", or "
                      "\"system\" for the "
                      "first message",
                      message.role));
    const bool asks = message.role == "user";
    if (asks) chat.text += bos + "user\n";
    add_content(message.content);
    chat.text += eos + "\n";
    if (asks) chat.text += bos + "assistant\n";
  }
  return chat;
}

std::string ChatTemplate::jinja() const {
  return fmt::format(
      "{{{{ '{0}system\\n' + messages[0]['content'] + '{1}\\n'"
      " if messages and messages[0]['role'] == 'system' else '{0}system\\n{2}{1}\\n' }}}}"
      "{{% for message in messages %}}"
      "{{% if message['role'] == 'user' %}}"
      "{{{{ '{0}user\\n' + message['content'] + '{1}\\n{0}assistant\\n' }}}}"
      "{{% elif message['role'] == 'assistant' %}}"
      "{{{{ message['content'] + '{1}\\n' }}}}"
      "{{% endif %}}{{% endfor %}}",
      escape(bos), escape(eos), escape(default_system));
}

std::optional<ChatTemplate> recognise_chat_template(std::string_view jinja, std::string bos,
                                                    std::string eos) {
  constexpr auto kNone = std::string_view::npos;
  for (const char* foreign : {"tool", "think", "add_generation_prompt"})
    if (jinja.find(foreign) != kNone) return std::nullopt;
  const std::string question_end = escape(eos) + "\\n" + escape(bos) + "assistant\\n'";
  if (jinja.find(question_end) == kNone) return std::nullopt;

  const std::string head = escape(bos) + "system\\n";
  for (std::size_t at = jinja.find(head); at != kNone; at = jinja.find(head, at)) {
    at += head.size();
    if (jinja.substr(at).starts_with('\'')) continue;  // the caller's own system text follows
    const std::size_t end = jinja.find(escape(eos) + "\\n'", at);
    if (end == kNone) return std::nullopt;
    return ChatTemplate{std::move(bos), std::move(eos), unescape(jinja.substr(at, end - at))};
  }
  return std::nullopt;
}

}  // namespace halftone
