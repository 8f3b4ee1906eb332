// SPDX-License-Identifier: Apache-2.0
#include "halftone/data/document_reader.h"

#include <string_view>
#include <utility>

#include "halftone/data/json_documents.h"
#include "halftone/data/line_reader.h"

namespace halftone {
namespace {

constexpr std::size_t kPieceBytes = std::size_t{256} << 10U;
constexpr std::string_view kBlanks = " \t\r\n\v\f";

bool is_blank(std::string_view text) { return text.find_first_not_of(kBlanks) == text.npos; }

// Whether a line break before this line is a token border: the line must not go on with white
// space, which the pre-tokeniser would join to the break. Of the Unicode spaces it is enough to
// know their first bytes.
bool starts_with_word(std::string_view line) {
  constexpr std::string_view kMaybeSpace = "\xC2\xE1\xE2\xE3";
  return kBlanks.find(line[0]) == kBlanks.npos && kMaybeSpace.find(line[0]) == kMaybeSpace.npos;
}

enum class Border { kNone, kParagraph, kPercent };

/// Plain text and fortune files: gathers lines up to a border, or up to kPieceBytes.
class TextPieceReader : public DocumentReader {
 public:
  TextPieceReader(const CorpusFile& file, const CorpusOptions& options, Border border)
      : lines_(file.path, {.replace_invalid_utf8 = options.replace_invalid_utf8}),
        border_(border) {}

  bool next(Document& document) override {
    while (lines_.next(line_)) {
      if (is_border(line_)) {
        if (finish(document)) return true;
      } else if (must_cut()) {
        cut(document);
        return true;
      } else {
        gathered_ += line_;
      }
    }
    return finish(document);
  }

  std::uint64_t bytes_read() const override { return lines_.bytes_read(); }

 private:
  bool is_border(std::string_view line) const {
    switch (border_) {
      case Border::kNone:
        return false;
      case Border::kParagraph:
        return is_blank(line);
      case Border::kPercent:
        return line.starts_with('%') && is_blank(line.substr(1));
    }
    return false;
  }

  // Before line_ is added: a cut in front of a word is free, so it is preferred for a while.
  bool must_cut() const {
    if (gathered_.size() >= 4 * kPieceBytes) return true;
    return gathered_.size() >= kPieceBytes && gathered_.back() == '\n' && starts_with_word(line_);
  }

  void cut(Document& document) {
    // The last line break goes with what follows: "a\n\nb" is "a", "\n", "\nb" to a pre-tokeniser.
    const bool break_follows = gathered_.back() == '\n' && gathered_.size() > 1;
    if (break_follows) gathered_.pop_back();
    document.begins = !std::exchange(inside_, true);
    document.ends = false;
    fill(document);
    gathered_ = break_follows ? "\n" + line_ : line_;
  }

  bool finish(Document& document) {
    const bool inside = std::exchange(inside_, false);
    document.begins = !inside;
    document.ends = true;
    fill(document);
    gathered_.clear();
    return inside || !is_blank(document.text);
  }

  void fill(Document& document) {
    document.text = border_ == Border::kPercent ? strip_terminal_codes(gathered_) : gathered_;
    if (border_ == Border::kNone) return;
    if (document.ends) document.text.erase(document.text.find_last_not_of(kBlanks) + 1);
    if (document.begins) trim_blank_lines(document.text);
  }

  static void trim_blank_lines(std::string& text) {
    const std::size_t first = text.find_first_not_of(kBlanks);
    if (first == std::string::npos) return text.clear();
    const std::size_t line = text.rfind('\n', first);  // indentation of the first line stays
    if (line != std::string::npos) text.erase(0, line + 1);
  }

  LineReader lines_;
  Border border_;
  std::string line_;
  std::string gathered_;
  bool inside_ = false;  // a sample whose first document has been given
};

// Offset behind the escape sequence that starts at `at` (ECMA-48: ESC [, parameters, a final byte;
// else ESC and one character). A broken one ends where it stops being one.
std::size_t skip_escape(std::string_view text, std::size_t at) {
  const auto within = [&](char low, char high) {
    return at < text.size() && text[at] >= low && text[at] <= high;
  };
  ++at;
  if (!within('[', '[')) return within('@', '_') ? at + 1 : at;
  ++at;
  while (within(' ', '?')) ++at;
  return within('@', '~') ? at + 1 : at;
}

void pop_character(std::string& text) {
  while (!text.empty() && (static_cast<unsigned char>(text.back()) & 0xC0U) == 0x80U)
    text.pop_back();
  if (!text.empty() && text.back() != '\n') text.pop_back();
}

}  // namespace

std::string strip_terminal_codes(const std::string& text) {
  if (text.find_first_of("\x1B\b") == std::string::npos) return text;
  std::string result;
  for (std::size_t at = 0; at < text.size();) {
    if (text[at] == '\x1B') {
      at = skip_escape(text, at);
      continue;
    }
    if (text[at] == '\b') {
      pop_character(result);
    } else {
      result += text[at];
    }
    ++at;
  }
  return result;
}

std::unique_ptr<DocumentReader> open_piece_reader(const CorpusFile& file,
                                                  const CorpusOptions& options) {
  const bool is_json = file.kind == CorpusKind::kJsonl || file.kind == CorpusKind::kJsonArray;
  if (!is_json) check_sample_kind(SampleKind::kText, options.wanted, file.path.string());
  switch (file.kind) {
    case CorpusKind::kJsonl:
    case CorpusKind::kJsonArray:
      return open_json_documents(file, options);
    case CorpusKind::kFortune:
      return std::make_unique<TextPieceReader>(file, options, Border::kPercent);
    case CorpusKind::kText:
      break;
  }
  return std::make_unique<TextPieceReader>(
      file, options, options.split_paragraphs ? Border::kParagraph : Border::kNone);
}

}  // namespace halftone
