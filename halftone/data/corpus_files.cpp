// SPDX-License-Identifier: Apache-2.0
#include "halftone/data/corpus_files.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <system_error>
#include <utility>

#include "halftone/core/error.h"
#include "halftone/core/log.h"
#include "halftone/data/corpus_kind.h"

namespace halftone {
namespace {

namespace fs = std::filesystem;

/// What a folder holds and training does not read, by reason.
class LeftOut {
 public:
  explicit LeftOut(fs::path folder) : folder_(std::move(folder)) {}

  enum class Loss { kNone, kText };

  /// `loss`: whether text that may be meant is missing now.
  void add(const std::string& reason, const fs::path& path, Loss loss = Loss::kNone) {
    auto& [count, first] = reasons_[reason];
    if (++count == 1) first = path.lexically_relative(folder_).string();
    ++count_;
    loses_text_ |= loss == Loss::kText;
  }

  bool is_empty() const { return count_ == 0; }
  void say(std::size_t read) const {
    if (count_ > 0) (loses_text_ ? log_warning : log_note)(text(read));
  }

  /// "left out 3 of 5 files in FOLDER: 2 hidden (.a, ...), 1 compressed (b.gz)"
  std::string text(std::size_t read) const {
    std::vector<std::string> parts;
    for (const auto& [reason, files] : reasons_)
      parts.push_back(fmt::format("{} {} ({}{})", files.first, reason, files.second,
                                  files.first > 1 ? ", ..." : ""));
    return fmt::format("left out {} of {} files in {}: {}", count_, count_ + read, folder_.string(),
                       fmt::join(parts, ", "));
  }

 private:
  fs::path folder_;
  std::map<std::string, std::pair<std::size_t, std::string>> reasons_;
  std::size_t count_ = 0;
  bool loses_text_ = false;
};

// What packages of fortunes put beside their texts.
bool comes_with_fortunes(const fs::path& path) {
  if (path.filename() == "copyright") return true;
  const std::string extension = path.extension().string();
  return (extension == ".dat" || extension == ".u8") &&
         fs::is_regular_file(fs::path(path).replace_extension());
}

/// Finds the files below a folder, through links too.
class FolderWalk {
 public:
  explicit FolderWalk(LeftOut& left_out) : left_out_(left_out) {}

  std::vector<fs::path> files_of(const fs::path& folder) {
    root_ = fs::canonical(folder);
    walk(folder);
    std::sort(files_.begin(), files_.end(),
              [](const fs::path& a, const fs::path& b) { return a.native() < b.native(); });
    return std::move(files_);
  }

 private:
  void walk(const fs::path& folder) {
    std::error_code error;
    walked_.insert(fs::canonical(folder, error));
    std::vector<fs::path> entries;
    fs::directory_iterator it(folder, error);
    for (; !error && it != fs::directory_iterator(); it.increment(error))
      entries.push_back(it->path());
    if (error)
      throw UserError(
          fmt::format("cannot read the data folder {}: {}", folder.string(), error.message()));
    // Sorted, so that of two ways to a folder the same is taken each time.
    std::sort(entries.begin(), entries.end());
    for (const fs::path& entry : entries) visit(entry);
  }

  void visit(const fs::path& path) {
    std::error_code error;
    const fs::file_status status = fs::status(path, error);
    if (path.filename().string().starts_with('.'))
      left_out_.add("hidden", path);
    else if (fs::is_directory(status))
      visit_folder(path);
    else if (status.type() == fs::file_type::not_found)
      left_out_.add("link to nothing", path, LeftOut::Loss::kText);
    else if (error)
      left_out_.add(error.message(), path, LeftOut::Loss::kText);
    else if (!fs::is_regular_file(status))
      left_out_.add("neither file nor folder", path);
    else if (comes_with_fortunes(path))
      left_out_.add("index, alias or copyright of fortunes", path);
    else
      files_.push_back(path);
  }

  void visit_folder(const fs::path& path) {
    std::error_code error;
    const fs::path target = fs::canonical(path, error);
    const bool is_above =
        std::mismatch(target.begin(), target.end(), root_.begin(), root_.end()).first ==
        target.end();
    if (is_above)
      left_out_.add("link to a folder that holds this one", path);
    else if (walked_.contains(target))
      left_out_.add("folder that is read already", path);
    else
      walk(path);
  }

  LeftOut& left_out_;
  fs::path root_;
  std::vector<fs::path> files_;
  std::set<fs::path> walked_;
};

class Collector {
 public:
  void add(const fs::path& path) {
    std::error_code error;
    const fs::file_status status = fs::status(path, error);
    if (!fs::exists(status)) {
      const bool missing = !error || error == std::errc::no_such_file_or_directory;
      throw UserError(
          fmt::format("the data path {} {}; name a text file, a .jsonl file or a folder",
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
    LeftOut left_out(folder);
    const std::vector<fs::path> paths = FolderWalk(left_out).files_of(folder);
    std::size_t read = 0;
    bool is_repeated = false;
    for (const fs::path& path : paths) {
      const std::string head = read_head(path);
      if (const auto refusal = corpus_refusal_of(path, head))
        left_out.add(refusal->what, path, LeftOut::Loss::kText);
      else if (!append(path, head)) {
        left_out.add("read already", path, LeftOut::Loss::kText);
        is_repeated = true;
      } else if (head.empty())
        left_out.add("empty", path);
      else
        ++read;
    }
    if (read == 0 && !is_repeated)
      throw UserError(fmt::format("the data folder {} holds no text files{}; name another",
                                  folder.string(),
                                  left_out.is_empty() ? "" : " (" + left_out.text(0) + ")"));
    left_out.say(read);
  }

  void add_file(const fs::path& path) {
    const std::string head = read_head(path);
    if (const auto refusal = corpus_refusal_of(path, head))
      throw UserError(fmt::format("the data file {} is {}, expected UTF-8 text or .jsonl; {}",
                                  path.string(), refusal->what, refusal->remedy));
    if (!append(path, head))
      log_warning(fmt::format("the data file {} is named twice; it is read once", path.string()));
  }

  // False for a file that is there already.
  bool append(const fs::path& path, std::string_view head) {
    if (!seen_.insert(fs::canonical(path)).second) return false;
    files_.push_back({path, corpus_kind_of(path, head), fs::file_size(path)});
    return true;
  }

  std::vector<CorpusFile> files_;
  std::set<fs::path> seen_;
};

}  // namespace

std::vector<CorpusFile> find_corpus_files(const std::vector<fs::path>& paths) {
  if (paths.empty()) throw UserError("no data given; name a text file, a .jsonl file or a folder");
  Collector collector;
  for (const fs::path& path : paths) collector.add(path);
  return collector.take();
}

}  // namespace halftone
