// SPDX-License-Identifier: Apache-2.0
// What one JSON object of the data says.
#include <fmt/format.h>

#include <map>
#include <nlohmann/json.hpp>

#include "halftone/core/error.h"
#include "halftone/data/json_documents.h"
#include "halftone/system/json_reader_impl.h"

namespace halftone {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;

/// How a kind of sample is called, written and trained on.
struct KindText {
  const char* name;
  const char* form;
  const char* task;
};

KindText text_of(SampleKind kind) {
  switch (kind) {
    case SampleKind::kConversation:
      return {"a chat", "{\"conversations\": [{\"role\": \"user\", \"content\": \"...\"}, ...]}",
              "sft"};
    case SampleKind::kPreference:
      return {
          "a preference",
          "{\"chosen\": [{\"role\": \"user\", \"content\": \"...\"}, ...], \"rejected\": [...]}",
          "dpo"};
    case SampleKind::kText:
      break;
  }
  return {"text", "{\"text\": \"...\"}", "pretrain"};
}

const char* chat_key(const json& object) {
  return object.contains("conversations") ? "conversations" : "messages";
}

bool is_of_kind(const json& object, SampleKind kind) {
  switch (kind) {
    case SampleKind::kConversation:
      return object.contains("conversations") || object.contains("messages");
    case SampleKind::kPreference:
      return object.contains("chosen") && object.contains("rejected");
    case SampleKind::kText:
      break;
  }
  return object.contains("text");
}

std::optional<SampleKind> kind_of(const json& object, std::optional<SampleKind> wanted) {
  if (wanted && is_of_kind(object, *wanted)) return wanted;
  for (const SampleKind kind :
       {SampleKind::kPreference, SampleKind::kConversation, SampleKind::kText})
    if (is_of_kind(object, kind)) return kind;
  return std::nullopt;
}

/// Reads the messages of one object.
class ChatReader {
 public:
  explicit ChatReader(const std::string& place) : place_(place) {}

  void add(const ordered_json& list, const std::string& name, std::vector<ChatMessage>& messages) {
    name_ = name;
    if (!list.is_array() || list.empty()) fail("must be an array of messages");
    for (std::size_t i = 0; i < list.size(); ++i) {
      name_ = fmt::format("{}[{}]", name, i);
      messages.push_back(message_of(list[i], messages.size()));
    }
  }

  /// A JSON array as text, however it is written; nothing for null and the empty string.
  std::string array_text(const ordered_json& object, const char* key) const {
    const auto found = object.find(key);
    if (found == object.end() || found->is_null()) return "";
    if (found->is_string()) return found->get<std::string>();
    if (!found->is_array()) fail(fmt::format("has {} that are a JSON {}", key, found->type_name()));
    return found->empty() ? "" : found->dump();
  }

 private:
  [[noreturn]] void fail(const std::string& what) const {
    throw UserError(
        fmt::format("{}: {} {}; expected messages such as {{\"role\": \"user\", "
                    "\"content\": \"...\"}}",
                    place_, name_, what));
  }

  ChatMessage message_of(const ordered_json& value, std::size_t index) const {
    if (!value.is_object()) fail(fmt::format("is a JSON {}", value.type_name()));
    const bool is_from_value = !value.contains("content") && value.contains("value");
    ChatMessage message{role_of(value, is_from_value, index),
                        text(value, is_from_value ? "value" : "content").value_or("")};
    message.reasoning_content = text(value, "reasoning_content");
    message.tools = array_text(value, "tools");
    message.tool_calls = array_text(value, "tool_calls");
    if (message.content.empty() && message.tool_calls.empty() && !value.contains("content") &&
        !value.contains("value"))
      fail("has no \"content\"");
    return message;
  }

  std::string role_of(const ordered_json& value, bool is_from_value, std::size_t index) const {
    static const std::map<std::string, const char*> kSpeakers = {
        {"human", "user"}, {"gpt", "assistant"}, {"observation", "tool"}};
    const auto role = text(value, is_from_value ? "from" : "role");
    if (!role) return index % 2 == 0 ? "user" : "assistant";
    const auto known = is_from_value ? kSpeakers.find(*role) : kSpeakers.end();
    return known == kSpeakers.end() ? *role : known->second;
  }

  std::optional<std::string> text(const ordered_json& object, const char* key) const {
    const auto found = object.find(key);
    if (found == object.end() || found->is_null()) return std::nullopt;
    if (!found->is_string())
      fail(fmt::format("has a \"{}\" that is a JSON {}", key, found->type_name()));
    return found->get<std::string>();
  }

  const std::string& place_;
  std::string name_;
};

void read_chats(std::string_view text, const json& object, const std::string& place,
                Document& document) {
  const ordered_json ordered = parse_ordered_json(text, place);
  ChatReader reader(place);
  if (document.kind == SampleKind::kPreference) {
    const auto prompt = ordered.find("prompt");
    for (auto [key, messages] :
         {std::pair("chosen", &document.messages), std::pair("rejected", &document.rejected)}) {
      if (prompt != ordered.end() && prompt->is_array()) reader.add(*prompt, "prompt", *messages);
      reader.add(ordered[key], key, *messages);
    }
  } else {
    reader.add(ordered[chat_key(object)], chat_key(object), document.messages);
  }
  const std::string tools = reader.array_text(ordered, "tools");
  for (auto* messages : {&document.messages, &document.rejected})
    if (!messages->empty() && messages->front().tools.empty()) messages->front().tools = tools;
}

}  // namespace

const char* json_form_of(SampleKind kind) { return text_of(kind).form; }

void check_sample_kind(SampleKind found, std::optional<SampleKind> wanted,
                       const std::string& place) {
  if (!wanted || found == *wanted) return;
  throw UserError(fmt::format(
      "{} is {}, which the task {} trains on, but the task is {}; expected {}, or set task to {}",
      place, text_of(found).name, text_of(found).task, text_of(*wanted).task, text_of(*wanted).form,
      text_of(found).task));
}

Document document_of_json(std::string_view text, const std::string& place,
                          std::optional<SampleKind> wanted) {
  const std::string remedy = fmt::format("expected one object such as {} on each line",
                                         json_form_of(wanted.value_or(SampleKind::kText)));
  const auto fail = [&](const std::string& what) {
    throw UserError(fmt::format("{} {}; {}", place, what, remedy));
  };
  const JsonDocument parsed = parse_json(text, place, {.remedy = remedy});
  const json& object = parsed.value;
  if (object.is_array())
    fail("is a JSON array, whose elements jq -c '.[]' writes as lines of a .jsonl");
  if (!object.is_object()) fail(fmt::format("is a JSON {}", object.type_name()));
  const std::optional<SampleKind> kind = kind_of(object, wanted);
  if (!kind)
    fail(wanted.value_or(SampleKind::kText) == SampleKind::kText ? "has no \"text\""
                                                                 : "holds no such thing");
  check_sample_kind(*kind, wanted, place);
  Document document{.kind = *kind, .place = place};
  if (*kind != SampleKind::kText) {
    read_chats(text, object, place, document);
    return document;
  }
  const json& value = object["text"];
  if (!value.is_string()) fail(fmt::format("has a \"text\" that is a JSON {}", value.type_name()));
  document.text = value.get<std::string>();
  return document;
}

}  // namespace halftone
