// SPDX-License-Identifier: Apache-2.0
#include "halftone/tokenizer/pre_tokenizer.h"

#include <unicode/uchar.h>
#include <unicode/utf8.h>

#include <cstdint>
#include <string>
#include <vector>

namespace halftone {
namespace {

enum class Kind : std::uint8_t { kOther, kLetter, kNumber, kSpace };

struct Character {
  Kind kind;
  std::size_t end;
};

Kind classify(UChar32 code_point) {
  if (u_hasBinaryProperty(code_point, UCHAR_WHITE_SPACE)) return Kind::kSpace;
  const auto category = U_GET_GC_MASK(code_point);
  if ((category & U_GC_L_MASK) != 0) return Kind::kLetter;
  if ((category & U_GC_N_MASK) != 0) return Kind::kNumber;
  return Kind::kOther;
}

constexpr UChar32 kTableSize = 0x10000;

// Asking ICU about every character would cost more than the merges do.
std::vector<Kind> make_table() {
  std::vector<Kind> table(kTableSize);
  for (UChar32 c = 0; c < kTableSize; ++c) table[static_cast<std::size_t>(c)] = classify(c);
  return table;
}

Kind kind_of(UChar32 code_point) {
  static const std::vector<Kind> table = make_table();
  if (code_point < 0) return Kind::kOther;
  return code_point < kTableSize ? table[static_cast<std::size_t>(code_point)]
                                 : classify(code_point);
}

Character character_at(std::string_view text, std::size_t at) {
  const std::size_t start = at;
  UChar32 code_point = 0;
  U8_NEXT(text.data(), at, text.size(), code_point);
  // An ill-formed sequence counts byte by byte, whatever follows it.
  return {kind_of(code_point), code_point < 0 ? start + 1 : at};
}

std::size_t run_end(std::string_view text, Character character) {
  std::size_t end = character.end;
  while (end < text.size()) {
    const Character next = character_at(text, end);
    if (next.kind != character.kind) break;
    end = next.end;
  }
  return end;
}

// In lower case.
std::size_t contraction_length(std::string_view text) {
  if (text.size() < 2 || text[0] != '\'') return 0;
  const char first = text[1];
  if (first == 's' || first == 't' || first == 'm' || first == 'd') return 2;
  const std::string_view two = text.substr(1, 2);
  return two == "re" || two == "ve" || two == "ll" ? 3 : 0;
}

std::size_t space_end(std::string_view text, std::size_t at) {
  std::size_t last = at;
  std::size_t end = at;
  while (end < text.size()) {
    const Character next = character_at(text, end);
    if (next.kind != Kind::kSpace) break;
    last = end;
    end = next.end;
  }
  return end == text.size() || last == at ? end : last;
}

// In any case. Without regard to case, U+017F is an s too.
std::size_t caseless_contraction_length(std::string_view text) {
  constexpr std::string_view kLongS = "\xC5\xBF";
  if (text.substr(0, 1) == "'" && text.substr(1).starts_with(kLongS)) return 1 + kLongS.size();
  std::string lower(text.substr(0, 3));
  for (char& letter : lower)
    if (letter >= 'A' && letter <= 'Z') letter = static_cast<char>(letter - 'A' + 'a');
  return contraction_length(lower);
}

bool breaks_line(std::string_view text, std::size_t at) {
  return at < text.size() && (text[at] == '\r' || text[at] == '\n');
}

std::size_t line_breaks_end(std::string_view text, std::size_t at) {
  while (breaks_line(text, at)) ++at;
  return at;
}

std::size_t numbers_end(std::string_view text, Character first, int most) {
  std::size_t end = first.end;
  for (int count = 1; count < most && end < text.size(); ++count) {
    const Character next = character_at(text, end);
    if (next.kind != Kind::kNumber) break;
    end = next.end;
  }
  return end;
}

// Of white space: up to its last line break, if it has one.
std::size_t space_with_breaks_end(std::string_view text, std::size_t at) {
  std::size_t last = at;
  for (std::size_t end = at; end < text.size();) {
    const Character next = character_at(text, end);
    if (next.kind != Kind::kSpace) break;
    if (breaks_line(text, end)) last = next.end;
    end = next.end;
  }
  return last > at ? last : space_end(text, at);
}

std::size_t word_end_of_lines(std::string_view text, std::size_t at, int most_numbers) {
  const std::size_t contraction = caseless_contraction_length(text.substr(at));
  if (contraction != 0) return at + contraction;
  const Character first = character_at(text, at);
  if (first.kind == Kind::kLetter) return run_end(text, first);
  if (first.kind == Kind::kNumber) return numbers_end(text, first, most_numbers);
  const bool has_next = first.end < text.size();
  const Character next = has_next ? character_at(text, first.end) : first;
  if (has_next && next.kind == Kind::kLetter && !breaks_line(text, at)) return run_end(text, next);
  if (first.kind == Kind::kOther) return line_breaks_end(text, run_end(text, first));
  if (has_next && next.kind == Kind::kOther && text[at] == ' ')
    return line_breaks_end(text, run_end(text, next));
  return space_with_breaks_end(text, at);
}

std::size_t gpt2_word_end(std::string_view text, std::size_t at) {
  const std::size_t contraction = contraction_length(text.substr(at));
  if (contraction != 0) return at + contraction;
  const Character first = character_at(text, at);
  if (first.kind != Kind::kSpace) return run_end(text, first);
  if (text[at] == ' ' && first.end < text.size()) {
    const Character second = character_at(text, first.end);
    if (second.kind != Kind::kSpace) return run_end(text, second);
  }
  return space_end(text, at);
}

}  // namespace

std::size_t word_end(std::string_view text, std::size_t at, WordRule rule) {
  switch (rule) {
    case WordRule::kNone:
      return text.size();
    case WordRule::kGpt2:
      return gpt2_word_end(text, at);
    case WordRule::kQwen2:
      return word_end_of_lines(text, at, 1);
    case WordRule::kLlama3:
      return word_end_of_lines(text, at, 3);
  }
  return text.size();
}

}  // namespace halftone
