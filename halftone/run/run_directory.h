// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <utility>

#include "halftone/core/error.h"
#include "halftone/system/file.h"

namespace halftone {

/// The paths of a run directory.
struct RunPaths {
  std::filesystem::path root;

  std::filesystem::path config() const { return root / "config.toml"; }
  std::filesystem::path metrics() const { return root / "metrics.jsonl"; }
  std::filesystem::path report() const { return root / "report.html"; }
  /// What a PictureLog has drawn, a folder each.
  std::filesystem::path pictures() const { return root / "pictures"; }
  /// Of a run that ended because its numbers were not finite.
  std::filesystem::path anomaly() const { return root / "anomaly.json"; }
  std::filesystem::path tokenizer() const { return root / "tokenizer.json"; }
  std::filesystem::path checkpoints() const { return root / "checkpoints"; }
  /// A run of the best checkpoint alone.
  std::filesystem::path best() const { return root / "best"; }
};

/// The paths of a run that exists (for reading); throws UserError when `root` is not one.
RunPaths find_run(const std::filesystem::path& root);

/// The folder of a new run holds a run already.
class ExistingRunError : public UserError {
 public:
  ExistingRunError(const std::string& message, bool has_checkpoint)
      : UserError(message), has_checkpoint_(has_checkpoint) {}

  /// Whether that run can be resumed.
  bool has_checkpoint() const { return has_checkpoint_; }

 private:
  bool has_checkpoint_;
};

/// What a new run does about one that is there already.
enum class ExistingRun {
  kRefuse,   // throws ExistingRunError, unless it never began
  kRestart,  // empties it if it has no checkpoint to go on from, else throws ExistingRunError
  kReplace,  // empties it
};

/// Throws the UserError that RunDirectory::create would, without writing anything.
void check_new_run(const std::filesystem::path& root, ExistingRun existing);

/// A run directory that this process alone may write to, for the lifetime of the object.
class RunDirectory {
 public:
  /// Makes the folder `root`, or empties the run that is there, as `existing` says; only what a run
  /// consists of is ever removed. Throws UserError when `root` holds something else, is in use or
  /// can't be written.
  static RunDirectory create(const std::filesystem::path& root, ExistingRun existing);
  /// Opens an existing run to go on with it. Throws UserError.
  static RunDirectory resume(const std::filesystem::path& root);

  /// One that another process writes to, which has made or opened it.
  static RunDirectory of_another_process(const std::filesystem::path& root) {
    return RunDirectory(RunPaths{root}, std::nullopt);
  }

  const RunPaths& paths() const { return paths_; }
  /// Writes config.toml (as a whole or not at all).
  void write_config(const std::string& toml) const;

 private:
  explicit RunDirectory(RunPaths paths);
  RunDirectory(RunPaths paths, std::nullopt_t /*no lock*/) : paths_(std::move(paths)) {}

  RunPaths paths_;
  std::optional<File> lock_;
};

}  // namespace halftone
