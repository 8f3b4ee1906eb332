// SPDX-License-Identifier: Apache-2.0
#include "cli/line_input.h"

#include <fmt/format.h>
#include <poll.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <system_error>

#include "halftone/core/error.h"
#include "halftone/core/text.h"
#include "halftone/system/interrupt.h"

namespace halftone::cli {
namespace {

constexpr std::size_t kLongestLine = std::size_t{1} << 20U;

/// Whether there is something to read, or the end. A read would be begun again after a signal;
/// a poll is not, and its limit covers a signal that came just before.
bool wait_for_input() {
  constexpr int kMilliseconds = 200;
  pollfd input{.fd = STDIN_FILENO, .events = POLLIN, .revents = 0};
  while (!interrupted())
    if (poll(&input, 1, kMilliseconds) > 0) return true;
  return false;
}

std::string checked_line(std::string line, std::size_t number) {
  if (line.ends_with('\r')) line.pop_back();
  if (const auto offset = find_invalid_utf8(line))
    throw UserError(fmt::format(
        "standard input, line {} is not UTF-8: byte {} breaks it; convert it first (iconv -t "
        "UTF-8)",
        number, *offset));
  return line;
}

}  // namespace

bool LineInput::is_terminal() const { return isatty(STDIN_FILENO) != 0; }

bool LineInput::fill() {
  if (!wait_for_input()) return false;
  std::array<char, 4096> part;
  const ssize_t count = read(STDIN_FILENO, part.data(), part.size());
  if (count < 0 && errno != EINTR && errno != EAGAIN)
    throw SystemError(
        fmt::format("cannot read standard input: {}", std::generic_category().message(errno)));
  if (count == 0) at_end_ = true;
  if (count > 0) buffer_.append(part.data(), static_cast<std::size_t>(count));
  return true;
}

std::optional<std::string> LineInput::next() {
  std::size_t end = buffer_.find('\n');
  for (; end == std::string::npos && !at_end_; end = buffer_.find('\n')) {
    if (buffer_.size() > kLongestLine)
      throw UserError(fmt::format("standard input, line {}: expected a line of at most 1 MiB",
                                  line_number_ + 1));
    if (!fill()) return std::nullopt;
  }
  if (end == std::string::npos && buffer_.empty()) return std::nullopt;
  ++line_number_;
  std::string line = buffer_.substr(0, end);
  buffer_.erase(0, end == std::string::npos ? end : end + 1);
  return checked_line(std::move(line), line_number_);
}

}  // namespace halftone::cli
