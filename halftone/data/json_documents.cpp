// SPDX-License-Identifier: Apache-2.0
#include "halftone/data/json_documents.h"

#include <fmt/format.h>

#include <optional>
#include <utility>

#include "halftone/core/error.h"
#include "halftone/core/text.h"
#include "halftone/data/line_reader.h"

namespace halftone {
namespace {

constexpr std::size_t kJsonBytes = std::size_t{64} << 20U;  // of one object
constexpr std::string_view kJsonBlanks = " \t\r\n\v\f";

class JsonLineReader : public DocumentReader {
 public:
  JsonLineReader(const CorpusFile& file, const CorpusOptions& options)
      : path_(file.path),
        wanted_(options.wanted),
        lines_(file.path, {.max_line_bytes = kJsonBytes,
                           .replace_invalid_utf8 = options.replace_invalid_utf8}) {}

  bool next(Document& document) override {
    while (lines_.next(line_)) {
      if (line_.find_first_not_of(kJsonBlanks) == std::string::npos) continue;
      const std::string place = fmt::format("{}:{}", path_.string(), lines_.line_number());
      std::string more;
      if (line_.size() > kJsonBytes / 2 && line_.back() != '\n' && lines_.next(more))
        throw UserError(fmt::format(
            "{} is longer than {}; expected one object such as {} on each "
            "line",
            place, format_bytes(kJsonBytes), json_form_of(wanted_.value_or(SampleKind::kText))));
      document = document_of_json(line_, place, wanted_);
      return true;
    }
    return false;
  }

  std::uint64_t bytes_read() const override { return lines_.bytes_read(); }

 private:
  std::filesystem::path path_;
  std::optional<SampleKind> wanted_;
  LineReader lines_;
  std::string line_;
};

/// Cuts an array into its elements; what an element holds is for the JSON parser to judge.
class JsonArrayReader : public DocumentReader {
 public:
  JsonArrayReader(const CorpusFile& file, const CorpusOptions& options)
      : path_(file.path),
        wanted_(options.wanted),
        lines_(file.path, {.replace_invalid_utf8 = options.replace_invalid_utf8}) {}

  bool next(Document& document) override {
    if (ended_ || !begin_element()) return false;
    const std::string place = here();
    std::string element;
    take_element(element, place);
    document = document_of_json(element, place, wanted_);
    return true;
  }

  std::uint64_t bytes_read() const override { return lines_.bytes_read(); }

 private:
  /// The next byte, which stays; nothing at the end of the file.
  std::optional<char> peek() {
    if (at_ < line_.size()) return line_[at_];
    at_ = 0;
    if (!lines_.next(line_)) line_.clear();
    return line_.empty() ? std::nullopt : std::optional(line_[0]);
  }

  std::optional<char> peek_word() {
    auto c = peek();
    for (; c && kJsonBlanks.find(*c) != kJsonBlanks.npos; c = peek()) ++at_;
    return c;
  }

  std::string here() const { return fmt::format("{}:{}", path_.string(), lines_.line_number()); }

  [[noreturn]] void fail(const std::string& what, const std::string& place) const {
    throw UserError(fmt::format("{} {}; expected one array of objects such as {}", place, what,
                                json_form_of(wanted_.value_or(SampleKind::kText))));
  }

  /// Goes to where an element begins; false behind the last.
  bool begin_element() {
    const char opening = std::exchange(is_first_, false) ? '[' : ',';
    const auto c = peek_word();
    if (c == opening) {
      ++at_;
      if (opening == ',' || peek_word() != ']') return require_element();
    } else if (opening == '[' || c != ']') {
      fail(c ? "has no '" + std::string(1, opening) + "' where one must stand"
             : std::string("ends within the array"),
           here());
    }
    ++at_;
    ended_ = true;
    if (peek_word()) fail("goes on behind the array", here());
    return false;
  }

  bool require_element() {
    if (!peek_word()) fail("ends within the array", here());
    return true;
  }

  void take_element(std::string& element, const std::string& place) {
    std::size_t depth = 0;
    bool in_string = false, escaped = false;
    for (auto c = peek(); c; ++at_, c = peek()) {
      if (in_string) {
        in_string = escaped || *c != '"';
        escaped = !escaped && *c == '\\';
      } else {
        if (depth == 0 && (*c == ',' || *c == ']')) return;
        in_string = *c == '"';
        if (*c == '{' || *c == '[') ++depth;
        if (depth > 0 && (*c == '}' || *c == ']')) --depth;
      }
      element += *c;
      if (element.size() > kJsonBytes)
        fail(fmt::format("begins an element of more than {}", format_bytes(kJsonBytes)), place);
    }
    fail("begins an element that does not end", place);
  }

  std::filesystem::path path_;
  std::optional<SampleKind> wanted_;
  LineReader lines_;
  std::string line_;  // or a part of one
  std::size_t at_ = 0;
  bool is_first_ = true;
  bool ended_ = false;
};

}  // namespace

std::unique_ptr<DocumentReader> open_json_documents(const CorpusFile& file,
                                                    const CorpusOptions& options) {
  if (file.kind == CorpusKind::kJsonArray) return std::make_unique<JsonArrayReader>(file, options);
  return std::make_unique<JsonLineReader>(file, options);
}

}  // namespace halftone
