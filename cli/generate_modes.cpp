// SPDX-License-Identifier: Apache-2.0
#include "cli/generate_modes.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <nlohmann/json.hpp>
#include <vector>

#include "cli/line_input.h"
#include "cli/program.h"
#include "cli/progress.h"
#include "halftone/core/log.h"
#include "halftone/core/text.h"
#include "halftone/pretrain/chat_session.h"
#include "halftone/pretrain/non_finite_report.h"
#include "halftone/pretrain/prompt_file.h"
#include "halftone/system/interrupt.h"

namespace halftone::cli {
namespace {

using Ids = std::vector<std::int64_t>;

std::string_view name_of(TextEnd end) {
  switch (end) {
    case TextEnd::kEndToken:
      return "end_token";
    case TextEnd::kLength:
      return "length";
    case TextEnd::kContext:
      return "context";
    case TextEnd::kStopped:
      break;
  }
  return "stopped";
}

std::string json_line(const std::string& prompt, const std::string& text, std::int64_t tokens,
                      TextEnd end) {
  const nlohmann::ordered_json document = {
      {"prompt", prompt}, {"text", text}, {"tokens", tokens}, {"end", name_of(end)}};
  return document.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

std::vector<ChatMessage> question(const std::string& text, const std::string& system) {
  std::vector<ChatMessage> messages;
  if (!system.empty()) messages.push_back({"system", system});
  messages.push_back({"user", text});
  return messages;
}

Ids prompt_ids(const Writer& writer, const std::string& prompt,
               const GenerateArguments& arguments) {
  const Tokenizer& tokenizer = writer.trained.tokenizer;
  if (arguments.chat) {
    const std::vector<std::int32_t> ids = tokenizer.encode_chat(question(prompt, arguments.system));
    return {ids.begin(), ids.end()};
  }
  const std::int64_t bos = tokenizer.special_tokens().bos;
  const std::vector<std::int32_t> text = tokenizer.encode(prompt, writer.parsing);
  Ids ids(text.begin(), text.end());
  if (writer.parsing == SpecialTokenParsing::kText || ids.empty() || ids.front() != bos)
    ids.insert(ids.begin(), bos);
  return ids;
}

/// `work` in the precision. Logits that are no numbers are the failure of a tensor, which is named.
template <class Work>
auto in_precision(const Writer& writer, const Work& work) try {
  const auto region = writer.inference.precision().forward_context();
  return work();
} catch (const NonFiniteLogits& error) {
  CausalLM& model = writer.trained.model;
  const torch::Device device = model->parameters().front().device();
  const torch::NoGradGuard no_grad;
  model->eval();
  const std::string origin = origin_of_non_finite(*model, [&] {
    const auto region = writer.inference.precision().forward_context();
    return model->forward(torch::tensor(error.ids).to(device).unsqueeze(0)).logits;
  });
  throw SystemError(fmt::format("{}: {}", error.what(), origin));
}

std::string text_of(const Tokenizer& tokenizer, const Ids& ids) {
  const std::vector<std::int32_t> narrow(ids.begin(), ids.end());
  return tokenizer.decode(narrow, /*skip_special_tokens=*/true);
}

void note_long_prompt(std::size_t tokens, std::int64_t context) {
  if (static_cast<std::int64_t>(tokens) > context)
    log_note(fmt::format("the prompt has {} tokens; the model reads the last {}", tokens, context));
}

/// A continuation stands behind its prompt; an answer stands alone.
std::string block_of(const std::string& prompt, const std::string& text, bool chat) {
  return (chat ? "" : prompt) + text + "\n";
}

class Conversation {
 public:
  Conversation(const Writer& writer, const GenerateArguments& arguments)
      : writer_(writer),
        arguments_(arguments),
        session_(writer.trained.model, writer.trained.tokenizer, arguments.system),
        sampling_(arguments.sampling) {}

  void ask(const std::string& question) {
    const ChatAnswer answer = in_precision(writer_, [&] {
      return session_.ask(question, sampling_, [&](std::string_view piece) {
        if (!arguments_.json) print(piece);
        return !interrupted();
      });
    });
    print(arguments_.json ? json_line(question, answer.text, answer.tokens, answer.end) : "\n");
    ++sampling_.seed;  // an answer that was given is not given again
    note(answer);
  }

 private:
  void note(const ChatAnswer& answer) const {
    const std::int64_t context = writer_.trained.model->config().max_seq_len;
    if (answer.forgotten_turns > 0)
      log_note(fmt::format(
          "the model's context of {} tokens is full: the oldest {} left out from here on", context,
          counted(static_cast<std::uint64_t>(answer.forgotten_turns), "turn is", "turns are")));
    if (answer.end == TextEnd::kContext)
      log_note(fmt::format("the answer ends where the model's context of {} tokens does", context));
    if (answer.end == TextEnd::kLength)
      log_note(fmt::format("the answer was cut off after {} tokens (--max-new-tokens)",
                           sampling_.max_new_tokens));
  }

  const Writer& writer_;
  const GenerateArguments& arguments_;
  ChatSession session_;
  SamplingOptions sampling_;
};

}  // namespace

void write_one(const Writer& writer, const GenerateArguments& arguments) {
  const std::string prompt = arguments.prompt.value_or("");
  const Ids ids = prompt_ids(writer, prompt, arguments);
  note_long_prompt(ids.size(), writer.trained.model->config().max_seq_len);
  if (!arguments.chat && !arguments.json) print(prompt);
  StreamDecoder decoder(writer.trained.tokenizer);
  std::string text;
  std::int64_t tokens = 0;
  const auto give = [&](const std::string& piece) {
    text += piece;
    if (!arguments.json) print(piece);
  };
  const InterruptGuard guard;
  const TextEnd end = in_precision(writer, [&] {
    return generate(writer.trained.model, ids, arguments.sampling, [&](std::int64_t id) {
      ++tokens;
      give(decoder.push(static_cast<std::int32_t>(id)));
      return !interrupted();
    });
  });
  give(decoder.flush());
  print(arguments.json ? json_line(prompt, text, tokens, end) : "\n");
  if (interrupted()) throw Exit{interrupted_exit_code()};
}

void write_all(const Writer& writer, const GenerateArguments& arguments) {
  const std::vector<std::string> prompts = read_prompts(arguments.prompts);
  std::vector<Ids> ids;
  std::size_t longest = 0;
  for (const std::string& prompt : prompts) {
    ids.push_back(prompt_ids(writer, prompt, arguments));
    longest = std::max(longest, ids.back().size());
  }
  note_long_prompt(longest, writer.trained.model->config().max_seq_len);
  ShareProgress progress("generating");
  const InterruptGuard guard;
  const auto give = [&](std::size_t i, const GeneratedText& made) {
    const std::string text = text_of(writer.trained.tokenizer, made.ids);
    progress.clear();
    const std::string block = block_of(prompts[i], text, arguments.chat);
    print(arguments.json
              ? json_line(prompts[i], text, static_cast<std::int64_t>(made.ids.size()), made.end)
              : (i > 0 ? "\n" : "") + block);
    progress.show(static_cast<double>(i + 1) / static_cast<double>(prompts.size()));
  };
  constexpr std::int64_t kBatch = 8;
  in_precision(writer, [&] {
    return generate_batch(writer.trained.model, ids,
                          {.sampling = arguments.sampling,
                           .batch_size = arguments.batch_size.value_or(kBatch),
                           .on_step = [](std::int64_t /*tokens*/) { return !interrupted(); }},
                          give);
  });
  progress.clear();
  if (interrupted()) throw Exit{interrupted_exit_code()};
}

void converse(const Writer& writer, const GenerateArguments& arguments) {
  Conversation conversation(writer, arguments);
  const InterruptGuard guard;
  LineInput input;
  if (input.is_terminal()) say("Type a message; /quit or Ctrl-D ends the conversation.\n");
  while (!interrupted()) {
    if (input.is_terminal()) say("> ");
    const std::optional<std::string> line = input.next();
    if (!line || *line == "/quit") break;
    if (line->find_first_not_of(" \t") != std::string::npos) conversation.ask(*line);
  }
  if (interrupted()) throw Exit{interrupted_exit_code()};
}

}  // namespace halftone::cli
