// SPDX-License-Identifier: Apache-2.0
#include "cli/rank_output.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "cli/program.h"
#include "halftone/core/error.h"
#include "halftone/system/terminal.h"

namespace halftone::cli {
namespace {

constexpr std::size_t kLongestLine = 1 << 16;

// Cuts complete lines off the front of `text`.
std::vector<std::string> cut_lines(std::string& text) {
  std::vector<std::string> lines;
  std::size_t begin = 0;
  for (std::size_t end = text.find('\n'); end != std::string::npos; end = text.find('\n', begin)) {
    lines.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  text.erase(0, begin);
  if (text.size() > kLongestLine) lines.push_back(std::exchange(text, ""));
  return lines;
}

}  // namespace

LinePipe::LinePipe() {
  if (pipe2(ends_.data(), O_CLOEXEC) != 0 || fcntl(ends_[0], F_SETFL, O_NONBLOCK) != 0)
    throw SystemError(fmt::format("cannot start a process: {}", std::strerror(errno)));
}

LinePipe::~LinePipe() {
  close_end(0);
  close_end(1);
}

LinePipe::LinePipe(LinePipe&& other) noexcept
    : ends_(std::exchange(other.ends_, {-1, -1})), rest_(std::move(other.rest_)) {}

void LinePipe::close_end(std::size_t end) {
  if (ends_[end] >= 0) close(std::exchange(ends_[end], -1));
}

std::vector<std::string> LinePipe::take_lines() {
  std::array<char, 1 << 14> buffer;
  ssize_t got = 0;
  while (read_end() >= 0 && rest_.size() <= kLongestLine) {
    got = read(read_end(), buffer.data(), buffer.size());
    if (got > 0) rest_.append(buffer.data(), static_cast<std::size_t>(got));
    if (got == 0) close_end(0);
    if (got < 0 && errno != EINTR) break;
  }
  std::vector<std::string> lines = cut_lines(rest_);
  if (read_end() < 0 && !rest_.empty()) lines.push_back(take_rest());
  return lines;
}

std::string LinePipe::take_rest() { return std::exchange(rest_, ""); }

RankOutput::RankOutput(int rank, bool holds_errors)
    : prefix_(fmt::format("[rank {}] ", rank)), holds_errors_(holds_errors) {}

void RankOutput::relay(bool ended) {
  for (const std::string& line : out().take_lines()) say_line(line);
  if (ended)
    if (const std::string rest = out().take_rest(); !rest.empty()) say_line(rest);
  take_errors(ended);
  if (held_ && !ended && has_waited_long()) say_held();
}

// A process that hangs after its error must not keep it. On a busy machine all take long to end.
bool RankOutput::has_waited_long() const {
  constexpr auto kShortest = std::chrono::seconds(5);
  constexpr int kTimesAsLong = 3;
  const auto waited = std::chrono::steady_clock::now() - held_since_;
  return waited > kShortest && waited > kTimesAsLong * (held_since_ - begin_);
}

void RankOutput::take_errors(bool ended) {
  std::vector<std::string> lines = error().take_lines();
  if (ended)
    if (std::string rest = error().take_rest(); !rest.empty()) lines.push_back(std::move(rest));
  for (std::string& line : lines) {
    say_held();
    if (holds_errors_ && line.starts_with(kErrorWords)) {
      held_ = std::move(line);
      held_since_ = std::chrono::steady_clock::now();
    } else {
      say_line(line);
    }
  }
}

void RankOutput::say_held() {
  if (held_) say_line(*std::exchange(held_, std::nullopt));
}

void RankOutput::say_line(const std::string& line) const {
  // A progress bar of rank 0 may stand in the terminal's line; it is drawn anew below.
  say(fmt::format("{}{}{}\n", stderr_is_terminal() ? "\r\x1b[K" : "", prefix_, line));
}

}  // namespace halftone::cli
