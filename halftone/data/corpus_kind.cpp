// SPDX-License-Identifier: Apache-2.0
#include "halftone/data/corpus_kind.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <utility>

#include "halftone/core/error.h"

namespace halftone {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kProbeBytes = std::size_t{1} << 20U;

template <std::size_t n>
bool is_one_of(std::string_view word, const std::array<std::string_view, n>& words) {
  return std::find(words.begin(), words.end(), word) != words.end();
}

std::string lower_case_extension(const fs::path& path) {
  std::string extension = path.extension().string();
  for (char& c : extension)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return extension;
}

// For a command that a reader copies into a shell.
std::string shell_word(const std::string& text) {
  std::string word = "'";
  for (const char c : text) {
    if (c == '\'')
      word += "'\\''";
    else
      word += c;
  }
  return word + "'";
}

std::string conversion(const char* what, const char* program, const fs::path& path) {
  const std::string file = path.string();
  return fmt::format("to train on {}: python3 -c '{}' {} {}", what, program, shell_word(file),
                     shell_word(file + ".jsonl"));
}

// Tables and documents are not text, though their bytes may be.
std::optional<CorpusRefusal> refusal_by_name(const fs::path& path) {
  constexpr std::array<std::string_view, 7> kTables = {".arrow", ".feather", ".orc", ".avro",
                                                       ".xlsx",  ".xls",     ".ods"};
  constexpr std::array<std::string_view, 7> kDocuments = {".pdf", ".doc",  ".docx", ".odt",
                                                          ".rtf", ".epub", ".ipynb"};
  const std::string extension = lower_case_extension(path);
  const std::string table = fmt::format("a table ({})", extension);
  if (extension == ".csv" || extension == ".tsv")
    return CorpusRefusal{
        table,
        conversion("its column \"text\"",
                   extension == ".csv"
                       ? "import csv, json, sys; out = open(sys.argv[2], \"w\"); "
                         "[print(json.dumps({\"text\": row[\"text\"]}), file=out) "
                         "for row in csv.DictReader(open(sys.argv[1]))]"
                       : "import csv, json, sys; out = open(sys.argv[2], \"w\"); "
                         "[print(json.dumps({\"text\": row[\"text\"]}), file=out) "
                         "for row in csv.DictReader(open(sys.argv[1]), dialect=\"excel-tab\")]",
                   path)};
  if (extension == ".parquet")
    return CorpusRefusal{table, conversion("its rows",
                                           "import pandas, sys; pandas.read_parquet(sys.argv[1])"
                                           ".to_json(sys.argv[2], orient=\"records\", lines=True)",
                                           path)};
  if (is_one_of(extension, kTables))
    return CorpusRefusal{table, "write its column as {\"text\": \"...\"} on lines of a .jsonl"};
  if (is_one_of(extension, kDocuments))
    return CorpusRefusal{fmt::format("a document ({})", extension), "save it as plain text first"};
  return std::nullopt;
}

std::optional<CorpusRefusal> refusal_by_bytes(std::string_view head) {
  using namespace std::string_view_literals;
  if (head.starts_with("\xFF\xFE"sv) || head.starts_with("\xFE\xFF"sv))
    return CorpusRefusal{"UTF-16", "convert it with: iconv -f UTF-16 -t UTF-8"};
  if (head.starts_with("\x1F\x8B"sv) || head.starts_with("PK\x03\x04"sv) ||
      head.starts_with("\xFD"
                       "7zXZ\0"sv) ||
      head.starts_with("\x28\xB5\x2F\xFD"sv) || head.starts_with("BZh"sv))
    return CorpusRefusal{"compressed", "unpack it first"};
  if (head.find('\0') != std::string_view::npos)
    return CorpusRefusal{"binary (it holds a zero byte)", "name a text file or a .jsonl"};
  return std::nullopt;
}

bool begins_array(std::string_view head) {
  constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";
  if (head.starts_with(kByteOrderMark)) head.remove_prefix(kByteOrderMark.size());
  const std::size_t first = head.find_first_not_of(" \t\r\n");
  return first != std::string_view::npos && head[first] == '[';
}

bool has_percent_line(std::string_view head) {
  for (std::size_t at = 0; at != std::string_view::npos;) {
    const std::size_t end = head.find('\n', at);
    const std::string_view line = head.substr(at, end == head.npos ? head.npos : end - at);
    if (line == "%" || line == "%\r") return true;
    at = end == head.npos ? head.npos : end + 1;
  }
  return false;
}

}  // namespace

std::string read_head(const fs::path& path) {
  std::ifstream stream(path, std::ios::binary);
  if (!stream)
    throw UserError(
        fmt::format("cannot open the data file {}: {}", path.string(), std::strerror(errno)));
  std::string head(kProbeBytes, '\0');
  stream.read(head.data(), static_cast<std::streamsize>(head.size()));
  head.resize(static_cast<std::size_t>(stream.gcount()));
  return head;
}

CorpusKind corpus_kind_of(const fs::path& path, std::string_view head) {
  constexpr std::array<std::string_view, 3> kJsonLines = {".jsonl", ".ndjson", ".json"};
  constexpr std::array<std::string_view, 8> kMarkup = {".md",  ".rst", ".tex", ".html",
                                                       ".htm", ".xml", ".erl", ".m"};
  const std::string extension = lower_case_extension(path);
  if (extension == ".json" && begins_array(head)) return CorpusKind::kJsonArray;
  if (is_one_of(extension, kJsonLines)) return CorpusKind::kJsonl;
  if (!is_one_of(extension, kMarkup) && has_percent_line(head)) return CorpusKind::kFortune;
  return CorpusKind::kText;
}

std::optional<CorpusRefusal> corpus_refusal_of(const fs::path& path, std::string_view head) {
  auto refusal = refusal_by_name(path);
  return refusal ? refusal : refusal_by_bytes(head);
}

}  // namespace halftone
