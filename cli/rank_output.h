// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <chrono>
#include <optional>
#include <string>
#include <vector>

namespace halftone::cli {

/// A pipe whose text comes out in lines.
class LinePipe {
 public:
  /// Throws SystemError.
  LinePipe();
  ~LinePipe();
  LinePipe(LinePipe&& other) noexcept;
  LinePipe& operator=(LinePipe&&) = delete;

  int write_end() const { return ends_[1]; }
  void close_write_end() { close_end(1); }
  /// -1 when all has been read.
  int read_end() const { return ends_[0]; }
  /// The lines that have come, without their ends; does not wait. A line that has no end yet comes
  /// when the pipe ends, or in pieces if it is too long.
  std::vector<std::string> take_lines();
  /// What has come of a line that has no end.
  std::string take_rest();

 private:
  void close_end(std::size_t end);

  std::array<int, 2> ends_{-1, -1};
  std::string rest_;
};

/// What a process other than that of rank 0 writes: its lines go to our stderr with "[rank 2] "
/// before them. stdout is left to rank 0, so that a result stands there once.
class RankOutput {
 public:
  /// With `holds_errors`, a line that begins as halftone's errors do is held back for a moment:
  /// all processes may be about to end with it.
  RankOutput(int rank, bool holds_errors);

  LinePipe& out() { return pipes_[0]; }
  LinePipe& error() { return pipes_[1]; }
  /// Says what has come. `ended`: nothing comes any more, and an error is held for as long as it
  /// takes.
  void relay(bool ended);
  /// The error that is held, if there is one.
  const std::optional<std::string>& held() const { return held_; }
  void say_held();
  /// For an error that is said elsewhere.
  void drop_held() { held_.reset(); }

 private:
  void say_line(const std::string& line) const;
  void take_errors(bool ended);
  bool has_waited_long() const;

  std::string prefix_;
  bool holds_errors_;
  std::array<LinePipe, 2> pipes_;
  std::optional<std::string> held_;
  std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now(), held_since_;
};

}  // namespace halftone::cli
