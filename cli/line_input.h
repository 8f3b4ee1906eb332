// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <optional>
#include <string>

namespace halftone::cli {

/// Lines of standard input, as they are typed.
class LineInput {
 public:
  bool is_terminal() const;

  /// The next line without its end; nothing at the end of the input, or when a signal has come
  /// (system/interrupt.h). Throws UserError for what is not UTF-8 and for a line of more than 1
  /// MiB, and SystemError when reading fails.
  std::optional<std::string> next();

 private:
  bool fill();

  std::string buffer_;
  std::size_t line_number_ = 0;
  bool at_end_ = false;
};

}  // namespace halftone::cli
