// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

namespace halftone {

struct LineReaderOptions {
  /// A longer line is given in parts, cut before a space where there is one, else between
  /// characters. At least 8.
  std::size_t max_line_bytes = std::size_t{256} << 10U;
  bool replace_invalid_utf8 = false;
};

/// Lines of a UTF-8 file in constant memory, a byte order mark left out.
class LineReader {
 public:
  /// Throws UserError when the file cannot be opened.
  explicit LineReader(std::filesystem::path path, LineReaderOptions options = {});

  /// The next line with its '\n' (a part of a long line and the last line may have none); false at
  /// the end. Throws UserError with the file and the byte's offset where it is not UTF-8, and
  /// SystemError when reading fails.
  bool next(std::string& line);

  std::uint64_t line_number() const { return line_number_; }  ///< of the last line, from 1
  std::uint64_t bytes_read() const { return offset_; }        ///< up to the last line's end

 private:
  void fill();
  std::size_t line_size();
  void check_utf8(std::string& line) const;

  std::filesystem::path path_;
  LineReaderOptions options_;
  std::ifstream stream_;
  std::string buffer_;
  std::size_t begin_ = 0;  // of what buffer_ still holds for the caller
  std::uint64_t offset_ = 0;
  std::uint64_t line_number_ = 0;
  bool at_line_start_ = true;
};

}  // namespace halftone
