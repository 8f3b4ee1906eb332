// SPDX-License-Identifier: Apache-2.0
// Chat formats as Jinja templates, and back.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>
#include <vector>

#include "halftone/system/hash.h"
#include "halftone/tokenizer/chat_template.h"
#include "halftone/tokenizer/chat_text_impl.h"

namespace halftone {
namespace {

constexpr auto kNone = std::string_view::npos;

// As the inside of a Jinja string literal in single quotes.
std::string escaped(std::string_view text) {
  std::string literal;
  for (const char c : text) {
    if (c == '\\' || c == '\'') literal += '\\';
    if (c == '\n')
      literal += "\\n";
    else
      literal += c;
  }
  return literal;
}

std::string unescaped(std::string_view literal) {
  std::string text;
  for (std::size_t i = 0; i < literal.size(); ++i) {
    if (literal[i] != '\\' || i + 1 == literal.size())
      text += literal[i];
    else
      text += literal[++i] == 'n' ? '\n' : literal[i];
  }
  return text;
}

using Replacement = std::pair<std::string_view, std::string_view>;

// In one pass: what is put in is not read again, so marks may spell each other's names.
std::string replaced(std::string_view text, const std::vector<Replacement>& replacements) {
  std::string result;
  for (std::size_t at = 0; at < text.size();) {
    const auto found =
        std::find_if(replacements.begin(), replacements.end(), [&](const Replacement& one) {
          return !one.first.empty() && text.substr(at).starts_with(one.first);
        });
    const bool is_found = found != replacements.end();
    result += is_found ? found->second : text.substr(at, 1);
    at += is_found ? found->first.size() : 1;
  }
  return result;
}

std::string question_opens_answer_jinja() {
  return "{{ 'BOSsystem\\n' + messages[0]['content'] + 'EOS\\n'"
         " if messages and messages[0]['role'] == 'system' else 'BOSsystem\\nDEFAULTEOS\\n' }}"
         "{% for message in messages %}"
         "{% if message['role'] == 'user' %}"
         "{{ 'BOSuser\\n' + message['content'] + 'EOS\\nBOSassistant\\n' }}"
         "{% elif message['role'] == 'assistant' %}"
         "{{ message['content'] + 'EOS\\n' }}"
         "{% endif %}{% endfor %}";
}

std::string each_turn_jinja() {
  return "{% for message in messages %}"
         "{{ ('BEGIN' if loop.first else '') + 'BOS' + message['role'] + 'HEADER' + "
         "message['content'] | trim + 'EOS' }}{% endfor %}"
         "{% if add_generation_prompt %}{{ 'BOSassistantHEADER' }}{% endif %}";
}

std::string system_jinja(const ChatTemplate& format) {
  const bool has_default = !format.default_system.empty();
  std::string text;
  if (format.has_tools) {
    text +=
        "{% if tools %}{{ 'BOSsystem\\n' }}"
        "{% if messages[0].role == 'system' %}{{ messages[0].content + '\\n\\n' }}";
    if (format.default_system_before_tools && has_default)
      text += "{% else %}{{ 'DEFAULT\\n\\n' }}";
    text += "{% endif %}{{ '" + escaped(kBeforeTools) +
            "' }}{% for tool in tools %}{{ '\\n' + (tool | tojson) }}{% endfor %}{{ '" +
            escaped(kAfterTools) + "EOS\\n' }}{% elif ";
  } else {
    text += "{% if ";
  }
  text += "messages[0].role == 'system' %}{{ 'BOSsystem\\n' + messages[0].content + 'EOS\\n' }}";
  if (has_default) text += "{% else %}{{ 'BOSsystem\\nDEFAULTEOS\\n' }}";
  return text + "{% endif %}";
}

// Sets `thought` and `content` of an answer.
std::string thought_jinja() {
  return "{% set thought = message.reasoning_content if message.reasoning_content is string"
         " else '' %}"
         "{% if message.reasoning_content is not string and '</think>' in content %}"
         "{% set thought = content.split('</think>')[0].rstrip('\\n')"
         ".split('<think>')[-1].lstrip('\\n') %}"
         "{% set content = content.split('</think>')[-1].lstrip('\\n') %}{% endif %}";
}

std::string said_jinja(const ChatTemplate& format) {
  const std::string with_thought =
      "{{ '<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}";
  switch (format.thinking) {
    case ChatThinking::kNone:
      break;
    case ChatThinking::kAlways:
      return thought_jinja() + with_thought;
    case ChatThinking::kAfterLastQuestion:
      return thought_jinja() + "{% if loop.index0 > last.question and (loop.last or thought) %}" +
             with_thought + "{% else %}{{ content }}{% endif %}";
  }
  return "{{ content }}";
}

std::string calls_jinja(const ChatTemplate& format) {
  const std::string arguments =
      format.quotes_argument_texts
          ? "call.arguments | tojson"
          : "call.arguments if call.arguments is string else call.arguments | tojson";
  return "{% if message.tool_calls %}{% for call in message.tool_calls %}"
         "{% if not loop.first or content %}{{ '\\n' }}{% endif %}"
         "{% if call.function %}{% set call = call.function %}{% endif %}"
         "{{ '<tool_call>\\n{\"name\": \"' + call.name + '\", \"arguments\": ' }}"
         "{{ " +
         arguments +
         " }}"
         "{{ '}\\n</tool_call>' }}{% endfor %}{% endif %}";
}

std::string last_question_jinja() {
  return "{% set last = namespace(question=messages | length - 1, found=false) %}"
         "{% for message in messages[::-1] %}"
         "{% if not last.found and message.role == 'user' and message.content is string and not "
         "(message.content.startswith('<tool_response>') and "
         "message.content.endswith('</tool_response>')) %}"
         "{% set last.question = messages | length - 1 - loop.index0 %}"
         "{% set last.found = true %}{% endif %}{% endfor %}";
}

std::string tool_response_jinja() {
  return "{% elif message.role == 'tool' %}"
         "{% if loop.first or messages[loop.index0 - 1].role != 'tool' %}{{ 'BOSuser' }}{% endif %}"
         "{{ '\\n<tool_response>\\n' + content + '\\n</tool_response>' }}"
         "{% if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{ 'EOS\\n' }}{% endif %}";
}

std::string prompt_jinja(ChatThinking thinking) {
  constexpr const char* kEmptyThought = "{{ '<think>\\n\\n</think>\\n\\n' }}";
  std::string text = "{% if add_generation_prompt %}{{ 'BOSassistant\\n' }}";
  if (thinking == ChatThinking::kAlways)
    text += fmt::format("{{% if open_thinking %}}{{{{ '<think>\\n' }}}}{{% else %}}{}{{% endif %}}",
                        kEmptyThought);
  if (thinking == ChatThinking::kAfterLastQuestion)
    text +=
        fmt::format("{{% if enable_thinking is defined and not enable_thinking %}}{}{{% endif %}}",
                    kEmptyThought);
  return text + "{% endif %}";
}

std::string turns_jinja(const ChatTemplate& format) {
  std::string text = system_jinja(format);
  if (format.thinking == ChatThinking::kAfterLastQuestion) text += last_question_jinja();
  text +=
      "{% for message in messages %}"
      "{% set content = message.content if message.content is string else '' %}"
      "{% if message.role == 'user' or message.role == 'system' and not loop.first %}"
      "{{ 'BOS' + message.role + '\\n' + content + 'EOS\\n' }}"
      "{% elif message.role == 'assistant' %}{{ 'BOSassistant\\n' }}" +
      said_jinja(format);
  if (format.has_tools) text += calls_jinja(format);
  text += "{{ 'EOS\\n' }}";
  if (format.has_tools) text += tool_response_jinja();
  return text + "{% endif %}{% endfor %}" + prompt_jinja(format.thinking);
}

/// A template without what may differ between templates of one format: marks and system text.
struct Shape {
  std::string text;
  std::string default_system;
};

Shape shape_of(std::string_view jinja, const std::string& bos, const std::string& eos) {
  std::string text =
      replaced(jinja.substr(0, jinja.find_last_not_of(" \n") + 1), {{escaped(bos), "\1"}});
  text = replaced(text, {{escaped(eos), "\2"}});
  const std::string head = "\1system\\n";
  for (std::size_t at = text.find(head); at != kNone; at = text.find(head, at)) {
    at += head.size();
    if (text.compare(at, 1, "'") == 0) continue;  // the caller's own text follows
    const std::size_t end = text.find('\2', at);
    if (end == kNone) break;
    const std::string literal = text.substr(at, end - at);
    text.insert(end, "\3");  // where an empty text stands, too
    return {replaced(text, {{literal, ""}}), unescaped(literal)};
  }
  return {std::move(text), ""};
}

struct KnownShape {
  std::uint64_t hash;  // of Shape::text
  ChatTemplate (*format)();
};

// Those that have been published by MiniMind and for Qwen2.5, Qwen3 and Llama 3.
constexpr std::array kKnownShapes = {
    KnownShape{0x5515790a224dec11,
               ChatTemplate::minimind_2504},  // V2 and 2504 differ in marks and system text
    KnownShape{0x1367bde8d26678f9, ChatTemplate::minimind_2510},
    KnownShape{0x2851d59206e308a7, ChatTemplate::minimind_v3},
    KnownShape{0xfc86875de2c6630d, ChatTemplate::qwen2},
    KnownShape{0xbafd1564ebd94562, ChatTemplate::qwen3},
    KnownShape{0x13082c1dfe7d94d9, ChatTemplate::llama3},
    KnownShape{0x9d33b09eb63b9ca0, ChatTemplate::llama3},  // with "\n" for line breaks
};

}  // namespace

std::string ChatTemplate::jinja() const {
  const std::string begin = escaped(bos), end = escaped(eos), system = escaped(default_system),
                    header = escaped(header_end), first = escaped(chat_begin);
  const std::string text = trims                   ? each_turn_jinja()
                           : question_opens_answer ? question_opens_answer_jinja()
                                                   : turns_jinja(*this);
  return replaced(
      text,
      {{"BOS", begin}, {"EOS", end}, {"DEFAULT", system}, {"HEADER", header}, {"BEGIN", first}});
}

std::optional<ChatTemplate> recognise_chat_template(std::string_view jinja, const std::string& bos,
                                                    const std::string& eos) {
  if (jinja.ends_with('\n')) jinja.remove_suffix(1);  // as Jinja does
  const Shape shape = shape_of(jinja, bos, eos);
  const auto recognised = [&](ChatTemplate format) {
    (format.chat_begin.empty() ? format.bos : format.chat_begin) = bos;
    format.eos = eos;
    format.default_system = shape.default_system;
    return format;
  };
  for (const auto make :
       {ChatTemplate::minimind_v2, ChatTemplate::minimind_2510, ChatTemplate::minimind_v3,
        ChatTemplate::qwen2, ChatTemplate::qwen3, ChatTemplate::llama3}) {
    const ChatTemplate format = recognised(make());
    if (format.jinja() == jinja) return format;
  }
  const std::uint64_t hash = hash_bytes(shape.text);
  for (const KnownShape& known : kKnownShapes)
    if (known.hash == hash) return recognised(known.format());
  return std::nullopt;
}

}  // namespace halftone
