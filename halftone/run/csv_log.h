// SPDX-License-Identifier: Apache-2.0
// RUN/metrics.csv: a table of what was logged. The first line names the columns, `step` first; each
// further one has the numbers of one call, as many columns as the first, empty where there is none.
// Names are quoted as RFC 4180 says; lines end with one line feed.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "halftone/system/file.h"

namespace halftone {

/// Appends to a table. Each line reaches the system with one write before append() returns. A name
/// that no line had before becomes the last column: the table is written anew, as a whole or not at
/// all.
class CsvLog {
 public:
  /// Opens `path`. A run that goes on from `last_step` > 0 keeps the lines before the first that is
  /// torn or of a later step; a new one passes 0. Throws UserError when the file can't be written.
  CsvLog(std::filesystem::path path, std::int64_t last_step);

  /// Numbers are written so that a reader gets every bit back; those that are not finite as nan,
  /// inf and -inf. A value called `step` is left out with a warning. Throws SystemError when the
  /// disk is full.
  void append(std::int64_t step, const std::map<std::string, double>& values);
  /// Waits until the lines are on the disk.
  void sync() const { file_->sync(); }

 private:
  void keep_up_to(std::int64_t last_step);
  void add_columns(const std::vector<std::string>& names);

  std::filesystem::path path_;
  std::optional<File> file_;
  std::vector<std::string> columns_;  // those after `step`
  std::uint64_t header_bytes_ = 0;    // 0: there is no first line yet
};

}  // namespace halftone
