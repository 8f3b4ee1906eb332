// SPDX-License-Identifier: Apache-2.0
#include "halftone/pretrain/choice_file.h"

#include <algorithm>

#include "halftone/pretrain/json_lines_impl.h"

namespace halftone {
namespace {

std::string text_member(const JsonField& root, const char* name) {
  const JsonField field = root[name];
  std::string text = field.as_string();
  if (text.empty()) field.fail("must not be empty");
  return text;
}

std::size_t answer_of(const JsonField& root) {
  const JsonField field = root["answer"];
  const std::string letter = field.as_string();
  const auto* const found = std::find(kChoiceLetters.begin(), kChoiceLetters.end(), letter);
  if (found == kChoiceLetters.end()) field.fail("must be \"A\", \"B\", \"C\" or \"D\"");
  return static_cast<std::size_t>(found - kChoiceLetters.begin());
}

}  // namespace

std::vector<ChoiceQuestion> read_choices(const std::filesystem::path& path) {
  std::vector<ChoiceQuestion> questions;
  for_each_json_line(path, [&](const JsonField& root) {
    ChoiceQuestion question{.question = text_member(root, "question"), .answer = answer_of(root)};
    for (std::size_t i = 0; i < kChoices; ++i)
      question.options[i] = text_member(root, kChoiceLetters[i]);
    questions.push_back(std::move(question));
  });
  return questions;
}

}  // namespace halftone
