// SPDX-License-Identifier: Apache-2.0
// Any bytes as data to train on or to evaluate with. The first says how they are read, the second
// what is wanted of them: documents that read the same when they are written again, and chats that
// encode to what they say, or a UserError.
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "fuzz_check.h"
#include "halftone/data/document_reader.h"
#include "halftone/data/json_documents.h"
#include "halftone/pretrain/choice_file.h"
#include "halftone/pretrain/json_lines_impl.h"
#include "small_tokenizer.h"
#include "support/memory_file.h"

namespace {

using halftone::ChatMessage;
using halftone::ChatTemplate;
using halftone::CorpusFile;
using halftone::CorpusKind;
using halftone::CorpusOptions;
using halftone::Document;
using halftone::SampleKind;
using halftone::Tokenizer;
using halftone::test::MemoryFile;
using halftone::test::must_succeed;
using halftone::test::require;
using halftone::test::succeeds;
using nlohmann::json;

json messages_of(const std::vector<ChatMessage>& messages) {
  json list = json::array();
  for (const ChatMessage& message : messages) {
    json one = {{"role", message.role},
                {"content", message.content},
                {"tools", message.tools},
                {"tool_calls", message.tool_calls}};
    if (message.reasoning_content) one["reasoning_content"] = *message.reasoning_content;
    list.push_back(std::move(one));
  }
  return list;
}

json object_of(const Document& document) {
  switch (document.kind) {
    case SampleKind::kConversation:
      return {{"conversations", messages_of(document.messages)}};
    case SampleKind::kPreference:
      return {{"chosen", messages_of(document.messages)},
              {"rejected", messages_of(document.rejected)}};
    case SampleKind::kText:
      break;
  }
  return {{"text", document.text}};
}

const std::vector<Tokenizer>& tokenizers() {
  static const std::vector<Tokenizer> made = [] {
    std::vector<Tokenizer> list;
    for (const ChatTemplate& format :
         {ChatTemplate::minimind_v2(), ChatTemplate::minimind_2510(), ChatTemplate::minimind_v3(),
          ChatTemplate::qwen2(), ChatTemplate::qwen3(), ChatTemplate::llama3()})
      list.push_back(halftone::test::small_tokenizer(format));
    return list;
  }();
  return made;
}

void check_chat(const std::vector<ChatMessage>& messages) {
  for (const Tokenizer& tokenizer : tokenizers())
    succeeds([&] {
      const halftone::ChatText chat = tokenizer.chat_template().render(messages);
      const halftone::ChatIds encoded = tokenizer.encode_conversation(messages);
      require(encoded.ids.size() == encoded.is_answer.size(), "each id is said or not");
      require(tokenizer.decode_bytes(encoded.ids) == chat.text, "a chat's ids decode to its text");
      std::size_t at = 0;
      for (const auto& [begin, end] : chat.answers) {
        require(at <= begin && begin < end && end <= chat.text.size(), "answers stand in order");
        at = end;
      }
    });
}

void read_documents(const CorpusFile& file, const CorpusOptions& options) {
  const auto reader = halftone::open_piece_reader(file, options);
  const bool is_json = file.kind == CorpusKind::kJsonl || file.kind == CorpusKind::kJsonArray;
  for (Document document; reader->next(document);) {
    if (!is_json) continue;
    const std::string written = object_of(document).dump();
    const Document again =
        must_succeed([&] { return halftone::document_of_json(written, "written", document.kind); });
    require(object_of(again).dump() == written, "a document is written as it was read");
    if (document.kind != SampleKind::kText) check_chat(document.messages);
  }
}

CorpusOptions options_of(std::uint8_t flags) {
  CorpusOptions options;
  options.split_paragraphs = (flags & 1U) != 0;
  options.replace_invalid_utf8 = (flags & 2U) != 0;
  options.wanted.reset();
  if ((flags & 4U) != 0)
    options.wanted =
        (flags & 8U) != 0 ? SampleKind::kText : std::optional(SampleKind::kConversation);
  return options;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t bytes) {
  constexpr std::size_t kHow = 2;
  if (bytes < kHow) return 0;
  const MemoryFile file(data + kHow, bytes - kHow);
  succeeds([&] {
    switch (data[0] % 8) {
      case 4:
        halftone::read_choices(file.path());
        break;
      case 5:
        halftone::for_each_json_line(
            file.path(), [](const halftone::JsonField& root) { root["prompt"].as_string(); });
        break;
      default:
        read_documents({.path = file.path(),
                        .kind = static_cast<CorpusKind>(data[0] % 4),
                        .bytes = bytes - kHow},
                       options_of(data[1]));
    }
  });
  return 0;
}
