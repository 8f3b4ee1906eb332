// SPDX-License-Identifier: Apache-2.0
// Progress on stderr while something takes its time.
#pragma once

#include <chrono>
#include <string>
#include <string_view>

namespace halftone {

/// Writes to stderr; what can't be written (the terminal has gone) is dropped.
void write_to_stderr(std::string_view text);

bool stderr_is_terminal();
/// Columns of the terminal on stderr; 100 where it does not tell.
std::size_t terminal_width();

/// A bar of `cells` characters, drawn to an eighth of one, for a share of 0..1.
std::string progress_bar(double share, int cells);

/// Terminals are slow: says when the next drawing is due.
class Pace {
 public:
  bool due();

 private:
  std::chrono::steady_clock::time_point next_{};
};

/// One line that redraws itself, with plain lines above it.
class StatusLine {
 public:
  /// Cut off at the terminal's width.
  void redraw(const std::string& line);
  void print(const std::string& line);
  /// Takes the line away.
  void clear();
  /// Leaves it as it is and goes to the next one.
  void finish();

 private:
  bool drawn_ = false;
};

}  // namespace halftone
