// SPDX-License-Identifier: Apache-2.0
#include "halftone/run/run_directory.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <fstream>
#include <string_view>
#include <system_error>

#include "halftone/run/checkpoint.h"
#include "halftone/system/atomic_file.h"

namespace halftone {
namespace fs = std::filesystem;
namespace {

// Marks a folder as a run directory, also before there is a config.toml, and is what is locked.
constexpr const char* kLockFile = "run.lock";

// What a run consists of, beside the lock: nothing else is ever removed.
constexpr std::array<std::string_view, 11> kOwnFiles = {
    "config.toml",    "metrics.jsonl",         "metrics.csv", "tensorboard",  "checkpoints", "best",
    "tokenizer.json", "tokenizer_config.json", "report.html", "anomaly.json", "pictures"};

bool is_empty_folder(const fs::path& path) {
  std::error_code error;
  return fs::is_directory(path, error) && fs::is_empty(path, error) && !error;
}

std::string shown(const fs::path& path) { return path.string(); }

bool is_run(const fs::path& root) {
  std::error_code error;
  return fs::is_regular_file(root / kLockFile, error);
}

// Throws where a folder `root` can't be made or written to.
void check_writable(const fs::path& root) {
  fs::path nearest = fs::absolute(root);
  std::error_code error;
  while (!fs::exists(nearest, error) && nearest.has_relative_path())
    nearest = nearest.parent_path();
  if (!fs::is_directory(nearest, error)) throw_file_error("create", root, ENOTDIR);
  if (::access(nearest.c_str(), W_OK | X_OK) != 0) throw_file_error("write", root, errno);
}

void remove_run(const RunPaths& paths) {
  for (const std::string_view name : kOwnFiles) {
    std::error_code error;
    fs::remove_all(paths.root / name, error);
    if (error) throw_file_error("remove", paths.root / name, error.value());
  }
}

void check_existing_run(const fs::path& root, ExistingRun existing) {
  if (existing == ExistingRun::kReplace) return;
  std::error_code error;
  // Without a configuration the run never began: there is nothing to lose.
  if (existing == ExistingRun::kRefuse && !fs::exists(root / "config.toml", error)) return;
  const bool has_checkpoint = !checkpoint_steps(root).empty();
  if (existing == ExistingRun::kRestart && !has_checkpoint) return;
  throw ExistingRunError(
      fmt::format(
          "the run directory '{}' exists; {}, overwrite it, or name another folder", shown(root),
          has_checkpoint ? "resume it" : "it ended before its first checkpoint: start it again"),
      has_checkpoint);
}

}  // namespace

RunPaths find_run(const fs::path& root) {
  RunPaths paths{root};
  std::error_code error;
  if (!fs::exists(root, error))
    throw UserError(fmt::format("there is no run directory '{}'", shown(root)));
  if (!fs::is_regular_file(paths.config(), error))
    throw UserError(fmt::format("'{}' is not a run directory: it has no config.toml", shown(root)));
  return paths;
}

void check_new_run(const fs::path& root, ExistingRun existing) {
  check_writable(root);
  std::error_code error;
  const fs::file_status status = fs::status(root, error);
  if (status.type() == fs::file_type::not_found || is_empty_folder(root)) return;
  if (status.type() != fs::file_type::directory)
    throw UserError(
        fmt::format("cannot use '{}' as the run directory: {}", shown(root),
                    status.type() == fs::file_type::none ? error.message() : "it is not a folder"));
  if (!is_run(root))
    throw UserError(fmt::format("'{}' holds files that are not a halftone run; name a new folder",
                                shown(root)));
  check_existing_run(root, existing);
}

RunDirectory RunDirectory::create(const fs::path& root, ExistingRun existing) {
  check_new_run(root, existing);
  std::error_code error;
  fs::create_directories(root, error);
  if (error) throw_file_error("create", root, error.value());
  RunDirectory run(RunPaths{root});
  check_existing_run(root, existing);  // now that no other process writes to it any more
  remove_run(run.paths_);
  fs::create_directories(run.paths_.checkpoints(), error);
  if (error) throw_file_error("create", run.paths_.checkpoints(), error.value());
  return run;
}

RunDirectory RunDirectory::resume(const fs::path& root) {
  RunDirectory run(find_run(root));
  check_writable(run.paths_.checkpoints());  // before the work, not after it
  remove_leftovers(root);
  return run;
}

RunDirectory::RunDirectory(RunPaths paths)
    : paths_(std::move(paths)), lock_(std::in_place, paths_.root / kLockFile, O_RDWR | O_CREAT) {
  if (::flock(lock_->descriptor(), LOCK_EX | LOCK_NB) == 0) return;
  if (errno == EWOULDBLOCK)
    throw UserError(
        fmt::format("the run directory '{}' is in use by another process", shown(paths_.root)));
  // File systems without locks (some network ones) are used without.
}

void RunDirectory::write_config(const std::string& toml) const {
  write_file_atomically(paths_.config(), toml);
}

}  // namespace halftone
