// SPDX-License-Identifier: Apache-2.0
#include "halftone/data/corpus_files.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <system_error>

#include "halftone/core/error.h"
#include "halftone/core/log.h"

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

// Why a file that starts like this cannot be trained on, and what to do, or nothing.
std::optional<std::string> refusal(std::string_view head) {
  using namespace std::string_view_literals;
  if (head.starts_with("\xFF\xFE"sv) || head.starts_with("\xFE\xFF"sv))
    return "is UTF-16, expected UTF-8; convert it with: iconv -f UTF-16 -t UTF-8";
  if (head.starts_with("\x1F\x8B"sv) || head.starts_with("PK\x03\x04"sv) ||
      head.starts_with("\xFD"
                       "7zXZ\0"sv) ||
      head.starts_with("\x28\xB5\x2F\xFD"sv) || head.starts_with("BZh"sv))
    return "is compressed; unpack it first";
  if (head.find('\0') != std::string_view::npos)
    return "is not a text file (it holds a zero byte); expected UTF-8 text or .jsonl";
  return std::nullopt;
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

CorpusKind kind_of(const fs::path& path, std::string_view head) {
  constexpr std::array<std::string_view, 3> kJsonLines = {".jsonl", ".ndjson", ".json"};
  constexpr std::array<std::string_view, 8> kMarkup = {".md",  ".rst", ".tex", ".html",
                                                       ".htm", ".xml", ".erl", ".m"};
  const std::string extension = lower_case_extension(path);
  if (is_one_of(extension, kJsonLines)) return CorpusKind::kJsonl;
  if (!is_one_of(extension, kMarkup) && has_percent_line(head)) return CorpusKind::kFortune;
  return CorpusKind::kText;
}

bool is_skipped_in_folders(const fs::path& path) {
  const std::string name = path.filename().string();
  if (name.starts_with('.') || name == "copyright") return true;
  const std::string extension = path.extension().string();
  if (extension == ".dat") return true;
  return extension == ".u8" && fs::exists(fs::path(path).replace_extension());
}

std::vector<fs::path> files_below(const fs::path& folder) {
  std::vector<fs::path> result;
  std::error_code error;
  fs::recursive_directory_iterator it(folder, error);
  for (; !error && it != fs::recursive_directory_iterator(); it.increment(error)) {
    std::error_code ignored;
    const bool hidden = it->path().filename().string().starts_with('.');
    if (hidden && it->is_directory(ignored)) it.disable_recursion_pending();
    if (it->is_regular_file(ignored) && !is_skipped_in_folders(it->path()))
      result.push_back(it->path());
  }
  if (error)
    throw UserError(
        fmt::format("cannot read the data folder {}: {}", folder.string(), error.message()));
  std::sort(result.begin(), result.end(),
            [](const fs::path& a, const fs::path& b) { return a.native() < b.native(); });
  return result;
}

class Collector {
 public:
  void add(const fs::path& path) {
    std::error_code error;
    const fs::file_status status = fs::status(path, error);
    if (!fs::exists(status)) {
      const bool missing = !error || error == std::errc::no_such_file_or_directory;
      throw UserError(fmt::format("the data path {} {}; give a text file, a .jsonl or a folder",
                                  path.string(), missing ? "does not exist" : error.message()));
    }
    if (fs::is_directory(status)) {
      add_folder(path);
    } else if (fs::is_regular_file(status)) {
      add_file(path);
    } else {
      throw UserError(
          fmt::format("the data path {} is neither a file nor a folder", path.string()));
    }
  }

  std::vector<CorpusFile> take() { return std::move(files_); }

 private:
  void add_folder(const fs::path& folder) {
    const std::vector<fs::path> paths = files_below(folder);
    std::vector<std::string> refused;
    std::size_t accepted = 0;
    for (const fs::path& path : paths) {
      const std::string head = read_head(path);
      if (const auto reason = refusal(head)) {
        refused.push_back(fmt::format("{} {}", path.string(), *reason));
      } else {
        append(path, head);
        ++accepted;
      }
    }
    if (!refused.empty())
      log_warning(fmt::format("left out {} of {} files in {}: {}{}", refused.size(), paths.size(),
                              folder.string(), refused[0], refused.size() > 1 ? ", ..." : ""));
    if (accepted == 0)
      throw UserError(fmt::format("the data folder {} holds no text files", folder.string()));
  }

  void add_file(const fs::path& path) {
    const std::string head = read_head(path);
    if (const auto reason = refusal(head))
      throw UserError(fmt::format("the data file {} {}", path.string(), *reason));
    append(path, head);
  }

  void append(const fs::path& path, std::string_view head) {
    if (!seen_.insert(fs::canonical(path)).second) return;
    files_.push_back({path, kind_of(path, head), fs::file_size(path)});
  }

  std::vector<CorpusFile> files_;
  std::set<fs::path> seen_;
};

}  // namespace

std::vector<CorpusFile> find_corpus_files(const std::vector<fs::path>& paths) {
  if (paths.empty()) throw UserError("no data given; name a text file, a .jsonl or a folder");
  Collector collector;
  for (const fs::path& path : paths) collector.add(path);
  return collector.take();
}

}  // namespace halftone
