// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "halftone/models/generate.h"
#include "halftone/tokenizer/tokenizer.h"

namespace halftone {

struct ChatAnswer {
  std::string text;
  std::int64_t tokens = 0;
  TextEnd end = TextEnd::kEndToken;
  std::int64_t forgotten_turns = 0;  // that made room for this one: questions with their answers
};

/// A conversation with a model that was trained on some. Keys and values are kept from turn to
/// turn, so that each reads only what is new. When the context is full, the oldest turns are
/// forgotten; the system text stays.
class ChatSession {
 public:
  /// `system`: the system text; empty: the template's own. Throws UserError where the tokenizer has
  /// no chat template that is understood.
  ChatSession(CausalLM model, Tokenizer tokenizer, std::string system = {});

  /// Answers `question`; pieces of text go to `on_text`, which returns false to stop. Throws
  /// UserError where the question alone does not fit into the context.
  ChatAnswer ask(const std::string& question, const SamplingOptions& sampling,
                 const std::function<bool(std::string_view piece)>& on_text);

  /// Positions that the model has computed in all turns.
  std::int64_t positions_read() const { return generator_.positions_read(); }

 private:
  std::vector<std::int64_t> encode(const std::vector<ChatMessage>& messages) const;
  std::vector<std::int64_t> prompt_ids() const;
  std::int64_t forget_what_does_not_fit(std::int64_t reserve);

  Tokenizer tokenizer_;
  std::int64_t context_;
  CachedGenerator generator_;
  std::vector<ChatMessage> messages_;  // the system text, if any, then questions and answers
  std::vector<std::int64_t> before_;   // ids up to the last answer, as the template has them
  std::vector<std::int64_t> said_;     // the same, and the ids of the answers as they were made
};

}  // namespace halftone
