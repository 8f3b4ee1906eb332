// SPDX-License-Identifier: Apache-2.0
#include "halftone/data/line_reader.h"

#include <fmt/format.h>

#include <cerrno>
#include <cstring>

#include "halftone/core/error.h"
#include "halftone/core/text.h"

namespace halftone {
namespace {

constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";
constexpr std::size_t kReadBytes = std::size_t{64} << 10U;

// Where to cut `text`, which is too long for one part.
std::size_t cut_size(std::string_view text) {
  const std::size_t space = text.rfind(' ');
  if (space != std::string_view::npos && space > text.size() / 2) return space;
  std::size_t size = text.size();
  const auto is_continuation = [&](std::size_t at) {
    return (static_cast<unsigned char>(text[at]) & 0xC0U) == 0x80U;
  };
  // Steps back over an unfinished character: at most three continuation bytes and their lead.
  std::size_t back = 0;
  while (back < 3 && is_continuation(size - 1 - back)) ++back;
  if (static_cast<unsigned char>(text[size - 1 - back]) >= 0xC0U) size -= back + 1;
  return size;
}

}  // namespace

LineReader::LineReader(std::filesystem::path path, LineReaderOptions options)
    : path_(std::move(path)), options_(options), stream_(path_, std::ios::binary) {
  HALFTONE_CHECK(options_.max_line_bytes >= 8, "[line_reader] expected max_line_bytes >= 8, got ",
                 options_.max_line_bytes);
  if (!stream_)
    throw UserError(
        fmt::format("cannot open the data file {}: {}", path_.string(), std::strerror(errno)));
  fill();
  if (buffer_.starts_with(kByteOrderMark)) offset_ = begin_ = kByteOrderMark.size();
}

void LineReader::fill() {
  buffer_.erase(0, begin_);
  begin_ = 0;
  const std::size_t kept = buffer_.size();
  buffer_.resize(kept + kReadBytes);
  stream_.read(buffer_.data() + kept, static_cast<std::streamsize>(kReadBytes));
  if (stream_.bad()) throw SystemError(fmt::format("cannot read {}", path_.string()));
  buffer_.resize(kept + static_cast<std::size_t>(stream_.gcount()));
}

// Bytes of the next line or part of a line; 0 at the end of the file.
std::size_t LineReader::line_size() {
  std::size_t searched = 0;
  while (true) {
    const std::size_t newline = buffer_.find('\n', begin_ + searched);
    const std::size_t size =
        newline == std::string::npos ? buffer_.size() - begin_ : newline + 1 - begin_;
    if (size > options_.max_line_bytes)
      return cut_size(std::string_view(buffer_).substr(begin_, options_.max_line_bytes));
    if (newline != std::string::npos || stream_.eof()) return size;
    searched = size;
    fill();
  }
}

bool LineReader::next(std::string& line) {
  const std::size_t size = line_size();
  line.assign(buffer_, begin_, size);
  if (size == 0) return false;
  if (at_line_start_) ++line_number_;
  at_line_start_ = line.back() == '\n';
  check_utf8(line);
  begin_ += size;
  offset_ += size;
  return true;
}

void LineReader::check_utf8(std::string& line) const {
  const auto bad = find_invalid_utf8(line);
  if (!bad) return;
  if (!options_.replace_invalid_utf8)
    throw UserError(fmt::format(
        "{} is not UTF-8: byte 0x{:02X} at offset {} (line {}); convert the file, or "
        "set invalid_utf8 to replace, which puts U+FFFD there",
        path_.string(), static_cast<unsigned char>(line[*bad]), offset_ + *bad, line_number_));
  line = replace_invalid_utf8(line);
}

}  // namespace halftone
