// SPDX-License-Identifier: Apache-2.0
#include "halftone/system/terminal.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>

namespace halftone {
namespace {

/// The first `count` columns; the characters drawn here are one column wide.
std::string first_columns(const std::string& line, std::size_t count) {
  std::size_t end = 0;
  for (std::size_t seen = 0; end < line.size(); ++end)
    if ((line[end] & 0xC0) != 0x80 && seen++ == count) break;
  return line.substr(0, end);
}

}  // namespace

void write_to_stderr(std::string_view text) {
  std::fwrite(text.data(), 1, text.size(), stderr);
  std::fflush(stderr);
}

bool stderr_is_terminal() { return isatty(STDERR_FILENO) == 1; }

std::size_t terminal_width() {
  winsize size{};
  return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 20 ? size.ws_col : 100;
}

std::string progress_bar(double share, int cells) {
  constexpr std::array<const char*, 8> kEighths = {" ", "▏", "▎", "▍", "▌", "▋", "▊", "▉"};
  const int eighths = static_cast<int>(std::lround(std::clamp(share, 0.0, 1.0) * cells * 8));
  std::string text;
  for (int cell = 0; cell < cells; ++cell) {
    const int filled = std::clamp(eighths - cell * 8, 0, 8);
    text += filled == 8 ? "█" : kEighths[static_cast<std::size_t>(filled)];
  }
  return text;
}

bool Pace::due() {
  constexpr auto kInterval = std::chrono::milliseconds(50);
  const auto now = std::chrono::steady_clock::now();
  if (now < next_) return false;
  next_ = now + kInterval;
  return true;
}

void StatusLine::redraw(const std::string& line) {
  write_to_stderr(fmt::format("\r\x1b[K{}", first_columns(line, terminal_width() - 1)));
  drawn_ = true;
}

void StatusLine::print(const std::string& line) {
  clear();
  write_to_stderr(line + "\n");
}

void StatusLine::clear() {
  if (drawn_) write_to_stderr("\r\x1b[K");
  drawn_ = false;
}

void StatusLine::finish() {
  if (drawn_) write_to_stderr("\n");
  drawn_ = false;
}

}  // namespace halftone
