// SPDX-License-Identifier: Apache-2.0
// The two ways a call can fail. Both carry one sentence that says what was expected, what was found
// and how to mend it; only the program's main() turns them into an exit code.
#pragma once

#include <c10/util/Exception.h>
#include <c10/util/StringUtil.h>

#include <stdexcept>
#include <string>
#include <utility>

namespace halftone {

/// The caller's mistake: a path, flag, key or file that is wrong. The program exits with 2.
class UserError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// The world's fault, such as a disk that is full. The program exits with 1.
class SystemError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

[[noreturn]] inline void throw_check_failed(std::string message) {
  throw c10::Error(std::move(message));  // without a backtrace
}

}  // namespace halftone

/// Checks what a caller must keep to; throws c10::Error, as LibTorch does, but its what() is the
/// message alone. The message starts with the unit:
///   HALFTONE_CHECK(x.dim() == 2, "[linear] expected a matrix, got ", x.dim(), " dimensions")
#define HALFTONE_CHECK(condition, ...)                                                       \
  do {                                                                                       \
    if (C10_UNLIKELY(!(condition))) ::halftone::throw_check_failed(::c10::str(__VA_ARGS__)); \
  } while (false)
