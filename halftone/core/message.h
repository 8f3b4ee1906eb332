// SPDX-License-Identifier: Apache-2.0
// What is said to people: what an error says, and how a shell is told a path.
#pragma once

#include <exception>
#include <string>
#include <string_view>

namespace halftone {

/// What `error` says, without the stack that LibTorch's c10::Error adds to its what().
std::string error_text(const std::exception& error);

/// `text` as one word of a POSIX shell's command line: in quotes where it needs them.
std::string shell_quoted(std::string_view text);

}  // namespace halftone
