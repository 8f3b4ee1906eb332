// SPDX-License-Identifier: Apache-2.0
#include "halftone/data/datasets.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <iterator>
#include <map>
#include <optional>
#include <set>
#include <sstream>
#include <string_view>
#include <system_error>

#include "halftone/core/error.h"
#include "halftone/core/log.h"
#include "halftone/core/text.h"
#include "halftone/system/paths.h"
#include "halftone/system/process.h"

namespace halftone {
namespace {

namespace fs = std::filesystem;

/// A package, and what of it is data: a file, or a folder with all below it.
struct Source {
  std::string package;
  std::vector<fs::path> paths;
  std::string_view folder;  // of the data set that takes them; a file keeps its name
};

struct Dataset {
  std::string_view name;
  std::vector<Source> sources;
};

// The names and keywords of emoji in the languages that EmojiSet reads.
std::vector<fs::path> cldr_files(const std::string& folder) {
  const fs::path root = "usr/share/unicode/cldr/common";
  return {root / folder / "en.xml", root / folder / "zh.xml"};
}

const std::vector<Dataset>& datasets() {
  static const std::vector<Dataset> all = {
      {"asterisk-sounds",
       {{"asterisk-core-sounds-en-wav", {"usr/share/asterisk/sounds/en_US_f_Allison"}, "sounds"},
        {"asterisk-core-sounds-en",
         {"usr/share/doc/asterisk-core-sounds-en/core-sounds-en.txt.gz"},
         ""}}},
      {"dataset-fashion-mnist",
       {{"dataset-fashion-mnist", {"usr/share/datasets/fashion-mnist"}, ""}}},
      {"emoji",
       {{"fonts-noto-color-emoji", {"usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"}, ""},
        {"unicode-cldr-core", cldr_files("annotations"), "annotations"},
        {"unicode-cldr-core", cldr_files("annotationsDerived"), "annotationsDerived"}}},
      {"fortunes",
       {{"fortunes", {"usr/share/games/fortunes"}, ""},
        {"fortunes-min", {"usr/share/games/fortunes"}, ""}}},
      {"fortunes-zh", {{"fortunes-zh", {"usr/share/games/fortunes"}, ""}}},
  };
  return all;
}

// Written last into each folder: it is complete, and this is where it came from.
constexpr const char* kStamp = ".halftone-dataset";

const Dataset& find_dataset(const std::string& name) {
  for (const Dataset& dataset : datasets())
    if (dataset.name == name) return dataset;
  refuse_dataset(name, dataset_names());
}

std::string last_line(std::string text) {
  text.erase(text.find_last_not_of(" \n") + 1);
  const std::size_t start = text.rfind('\n');
  return start == std::string::npos ? text : text.substr(start + 1);
}

std::vector<std::string> lines_of(const std::string& text) {
  std::istringstream stream(text);
  std::vector<std::string> result;
  for (std::string line; std::getline(stream, line);) result.push_back(line);
  return result;
}

/// A folder that is gone when this is, unless it has been renamed.
class ScratchFolder {
 public:
  explicit ScratchFolder(fs::path path) : path_(std::move(path)) {
    std::error_code error;
    fs::remove_all(path_, error);
    fs::create_directories(path_, error);
    if (error)
      throw UserError(fmt::format("cannot write to {}: {}; name another folder",
                                  path_.parent_path().string(), error.message()));
  }
  ~ScratchFolder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

/// Where a package's files lie under a root, and which they are, relative to it.
struct PackageFiles {
  std::string title;  // "fortunes-zh 2.98"
  fs::path root;
  std::vector<fs::path> files;
};

// Nothing where the package is not installed, or without some of its files.
std::optional<PackageFiles> installed_files(const std::string& package) {
  const ProcessResult status =
      run_process({"dpkg-query", "-W", "-f", "${db:Status-Status} ${Version}", package});
  constexpr std::string_view kInstalled = "installed ";
  if (status.exit_code != 0 || !status.output.starts_with(kInstalled)) return std::nullopt;
  const ProcessResult listed = run_process({"dpkg-query", "-L", package});
  if (listed.exit_code != 0) return std::nullopt;
  PackageFiles result{
      fmt::format("{} {}", package, status.output.substr(kInstalled.size())), "/", {}};
  std::error_code error;
  for (const std::string& line : lines_of(listed.output)) {
    const fs::path path = line;
    if (!path.is_absolute() || fs::is_directory(path, error)) continue;
    if (fs::is_regular_file(fs::symlink_status(path, error)))
      result.files.push_back(path.relative_path());
  }
  return result;
}

[[noreturn]] void fail_download(const std::string& package, const ProcessResult& result) {
  if (result.not_found())
    throw UserError(fmt::format(
        "the data is Debian's package {}, and this machine has no apt-get; unpack it by hand and "
        "train on its folder, or on any text of your own",
        package));
  throw SystemError(
      fmt::format("cannot download Debian's package {}: {}; check the network and run 'apt-get "
                  "update' as root, or install the package",
                  package, last_line(result.output)));
}

PackageFiles downloaded_files(const std::string& package, const fs::path& scratch) {
  const fs::path folder = scratch / package;
  fs::create_directories(folder);
  log_note(fmt::format("downloading Debian's package {}", package));
  const ProcessResult download = run_process({"apt-get", "download", package}, folder);
  if (download.exit_code != 0) fail_download(package, download);
  fs::path archive;
  for (const auto& entry : fs::directory_iterator(folder))
    if (entry.path().extension() == ".deb") archive = entry.path();
  if (archive.empty()) fail_download(package, download);

  const fs::path root = folder / "root";
  const ProcessResult unpacked =
      run_process({"dpkg-deb", "-x", fs::absolute(archive).string(), fs::absolute(root).string()});
  if (unpacked.not_found())
    throw UserError(fmt::format("cannot unpack {}: this machine has no dpkg-deb; install dpkg",
                                archive.filename().string()));
  if (unpacked.exit_code != 0)
    throw SystemError(fmt::format("cannot unpack {}: {}", archive.filename().string(),
                                  last_line(unpacked.output)));
  const ProcessResult version =
      run_process({"dpkg-deb", "-f", fs::absolute(archive).string(), "Version"});
  PackageFiles result{fmt::format("{} {}", package, last_line(version.output)), root, {}};
  for (const auto& entry : fs::recursive_directory_iterator(root))
    if (entry.is_regular_file() && !entry.is_symlink())
      result.files.push_back(entry.path().lexically_relative(root));
  return result;
}

void append_licence(const PackageFiles& files, const std::string& package, const fs::path& target) {
  std::ifstream from(files.root / "usr/share/doc" / package / "copyright", std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(from), {}};
  if (text.empty()) return;
  std::ofstream to(target, std::ios::binary | std::ios::app);
  to << files.title << "\n\n" << text << '\n';
  if (!to.flush()) throw SystemError(fmt::format("cannot write {}", target.string()));
}

// Where the data set has the package's file; nothing unless the file is data.
std::optional<fs::path> place_in_data(const fs::path& file, const Source& source) {
  if (file.extension() == ".dat") return std::nullopt;  // an index of fortunes
  for (const fs::path& path : source.paths) {
    if (file == path) return source.folder / file.filename();
    const fs::path below = file.lexically_relative(path);
    if (!below.empty() && *below.begin() != "..") return source.folder / below;
  }
  return std::nullopt;
}

// Copies the data files among `files`; the number of them.
std::size_t copy_data(const PackageFiles& files, const Source& source, const fs::path& target) {
  std::size_t copied = 0;
  for (const fs::path& file : files.files) {
    const std::optional<fs::path> place = place_in_data(file, source);
    if (!place) continue;
    std::error_code error;
    fs::create_directories((target / *place).parent_path(), error);
    fs::copy_file(files.root / file, target / *place, error);
    if (error)
      throw SystemError(
          fmt::format("cannot copy {} to {}: {}", file.string(), target.string(), error.message()));
    ++copied;
  }
  return copied;
}

FetchedData describe(const fs::path& folder, bool was_there) {
  FetchedData result{.folder = folder, .was_there = was_there};
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (entry.path().filename() == kStamp || !entry.is_regular_file()) continue;
    result.files.push_back(entry.path().lexically_relative(folder).string());
    result.bytes += entry.file_size();
  }
  std::sort(result.files.begin(), result.files.end());
  std::ifstream stamp(folder / kStamp);
  for (std::string line; std::getline(stamp, line);) result.packages.push_back(line);
  return result;
}

bool holds_something(const fs::path& folder) {
  std::error_code error;
  return fs::exists(folder, error) && !fs::is_empty(folder, error);
}

/// The files of packages, each looked up or downloaded once.
class PackageStore {
 public:
  explicit PackageStore(fs::path scratch) : scratch_(std::move(scratch)) {}

  /// Copies what `source` names; of the installed package, unless that lacks it.
  const PackageFiles& copy(const Source& source, const fs::path& target) {
    std::optional<PackageFiles>& files = files_[source.package];
    if (!files) files = installed_files(source.package);
    const bool was_installed = files && files->root == "/";
    std::size_t copied = files ? copy_data(*files, source, target) : 0;
    if (copied == 0 && (!files || was_installed)) {
      files = downloaded_files(source.package, scratch_);
      copied = copy_data(*files, source, target);
    } else if (copied > 0 && was_installed) {
      note_once(files->title);
    }
    if (copied == 0)
      throw SystemError(fmt::format("the package {} holds no files in {}", files->title,
                                    source.paths.front().string()));
    return *files;
  }

 private:
  void note_once(const std::string& title) {
    if (noted_.insert(title).second)
      log_note(fmt::format("taking the installed package {}", title));
  }

  fs::path scratch_;
  std::map<std::string, std::optional<PackageFiles>> files_;
  std::set<std::string> noted_;
};

void fill(const Dataset& dataset, const fs::path& target, const fs::path& scratch) {
  PackageStore store(scratch);
  std::string stamp;
  for (const Source& source : dataset.sources) {
    const PackageFiles& files = store.copy(source, target);
    if (stamp.find(files.title + "\n") != std::string::npos) continue;
    append_licence(files, source.package, target / "copyright");
    stamp += files.title + "\n";
  }
  std::ofstream to(target / kStamp);
  to << stamp;
  if (!to.flush()) throw SystemError(fmt::format("cannot write {}", target.string()));
}

}  // namespace

std::vector<std::string> dataset_names() {
  std::vector<std::string> names;
  for (const Dataset& dataset : datasets()) names.emplace_back(dataset.name);
  return names;
}

void refuse_dataset(const std::string& name, const std::vector<std::string>& names) {
  const auto near = nearest_match(name, names);
  throw UserError(fmt::format("unknown data set '{}'{}; available: {}", name,
                              near ? fmt::format(", did you mean '{}'?", *near) : "",
                              fmt::join(names, ", ")));
}

FetchedData fetch_dataset(const std::string& name, fs::path folder) {
  const Dataset& dataset = find_dataset(name);
  if (folder.empty()) folder = cache_folder() / "data" / name;
  folder = fs::absolute(folder).lexically_normal();
  if (!folder.has_filename()) folder = folder.parent_path();
  if (fs::exists(folder / kStamp)) {
    FetchedData there = describe(folder, true);
    if (!there.packages.empty() && there.packages[0].starts_with(dataset.sources[0].package + " "))
      return there;
  }
  if (holds_something(folder))
    throw UserError(
        fmt::format("{} already exists and holds something other than {}; name another folder, or "
                    "remove it",
                    folder.string(), name));

  // Beside the target, so that the last step is one rename within one file system.
  const ScratchFolder scratch(folder.parent_path() /
                              fmt::format(".{}-{}", folder.filename().string(), getpid()));
  const fs::path complete = scratch.path() / "complete";
  fs::create_directories(complete);
  fill(dataset, complete, scratch.path());
  std::error_code error;
  fs::rename(complete, folder, error);
  if (error && !fs::exists(folder / kStamp))  // else another process was faster
    throw SystemError(fmt::format("cannot create {}: {}", folder.string(), error.message()));
  return describe(folder, false);
}

}  // namespace halftone
