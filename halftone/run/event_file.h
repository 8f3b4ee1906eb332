// SPDX-License-Identifier: Apache-2.0
// What TensorBoard shows of a run: a folder of event files, of which each process that trains the
// run adds one. TensorBoard reads them in the order of their names.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "halftone/system/file.h"

namespace halftone {

/// How numbers are distributed.
struct Distribution {
  double least = 0, most = 0;
  double count = 0;
  double sum = 0, sum_of_squares = 0;
  /// The upper ends of the buckets, in ascending order. A bucket begins with the end of the one
  /// before it, the first one with `least`; its end belongs to the next, the last one's to itself.
  std::vector<double> ends;
  std::vector<double> counts;  ///< in each bucket
};

/// A new event file. Each call writes one event, which reaches the system before the call returns:
/// a killed process loses at most the event it was writing. Bytes of names and texts that are not
/// UTF-8 become U+FFFD. Every call throws SystemError when the disk is full.
class EventFile {
 public:
  /// Makes a file that TensorBoard reads after those in `folder`, whatever the clock says, and the
  /// folder if there is none. From the second file on, TensorBoard forgets what was written before
  /// of steps after `last_step`. Throws UserError when the file can't be written.
  EventFile(const std::filesystem::path& folder, std::int64_t last_step);

  /// Numbers of one step by name; TensorBoard keeps them as fp32.
  void add_scalars(std::int64_t step, const std::map<std::string, double>& values);
  void add_histogram(std::int64_t step, const std::string& name, const Distribution& values);
  /// `text` is shown as Markdown.
  void add_text(std::int64_t step, const std::string& name, const std::string& text);

  /// Waits until the events are on the disk.
  void sync() const { file_.sync(); }
  const std::filesystem::path& path() const { return path_; }

 private:
  void write(const std::string& event);

  std::filesystem::path path_;
  File file_;
};

}  // namespace halftone
