// SPDX-License-Identifier: Apache-2.0
// Reads a JSON array of chats and writes the text of each, with the Jinja template that should give
// the same: chat_template_test.py compares.
//   in:  [{"format": NAME or {"jinja", "bos", "eos"}, "messages": [...], "tools": "..." or null,
//          "prompt": "none"|"answer"|"thinking"}]
//   out: [{"jinja", "text"}], or [{"error"}]
#include <iostream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "halftone/core/error.h"
#include "halftone/tokenizer/chat_template.h"

namespace {

using halftone::ChatMessage;
using halftone::ChatPrompt;
using halftone::ChatTemplate;
using nlohmann::json;

ChatTemplate format_of(const json& format) {
  static const std::map<std::string, ChatTemplate (*)()> kFormats = {
      {"v2", ChatTemplate::minimind_v2},     {"2504", ChatTemplate::minimind_2504},
      {"2510", ChatTemplate::minimind_2510}, {"v3", ChatTemplate::minimind_v3},
      {"qwen2", ChatTemplate::qwen2},        {"qwen3", ChatTemplate::qwen3},
      {"llama3", ChatTemplate::llama3}};
  if (format.is_string()) return kFormats.at(format.get<std::string>())();
  const auto found = halftone::recognise_chat_template(format["jinja"].get<std::string>(),
                                                       format["bos"].get<std::string>(),
                                                       format["eos"].get<std::string>());
  if (!found) throw halftone::UserError("not recognised");
  return *found;
}

std::vector<ChatMessage> messages_of(const json& chat) {
  std::vector<ChatMessage> messages;
  for (const json& entry : chat["messages"]) {
    ChatMessage message{entry["role"].get<std::string>(), entry["content"].get<std::string>()};
    if (entry.contains("reasoning_content"))
      message.reasoning_content = entry["reasoning_content"].get<std::string>();
    if (entry.contains("tool_calls")) message.tool_calls = entry["tool_calls"].get<std::string>();
    messages.push_back(message);
  }
  if (chat["tools"].is_string()) messages.front().tools = chat["tools"].get<std::string>();
  return messages;
}

json answer_to(const json& chat) {
  static const std::map<std::string, ChatPrompt> kPrompts = {{"none", ChatPrompt::kNone},
                                                             {"answer", ChatPrompt::kAnswer},
                                                             {"thinking", ChatPrompt::kThinking}};
  try {
    const ChatTemplate format = format_of(chat["format"]);
    const auto text =
        format.render(messages_of(chat), kPrompts.at(chat["prompt"].get<std::string>())).text;
    return {{"jinja", format.jinja()}, {"text", text}};
  } catch (const halftone::UserError& error) {
    return {{"error", error.what()}};
  }
}

}  // namespace

int main() {
  json answers = json::array();
  for (const json& chat : json::parse(std::cin)) answers.push_back(answer_to(chat));
  std::cout << answers.dump() << '\n';
}
