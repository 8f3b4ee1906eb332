// SPDX-License-Identifier: Apache-2.0
// The two ways a call can fail. Both carry one sentence that says what was expected, what was found
// and how to mend it; only the program's main() turns them into an exit code.
#pragma once

#include <c10/util/Exception.h>

#include <stdexcept>
#include <string>

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

}  // namespace halftone

/// Checks what a caller must keep to; throws c10::Error, as LibTorch does. The message starts with
/// the unit: HALFTONE_CHECK(x.dim() == 2, "[linear] expected a matrix, got ", x.dim(), "
/// dimensions").
#define HALFTONE_CHECK(condition, ...) TORCH_CHECK(condition, __VA_ARGS__)
