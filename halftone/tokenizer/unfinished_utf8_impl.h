// SPDX-License-Identifier: Apache-2.0
// Private to this room.
#pragma once

#include <cstddef>
#include <string_view>

namespace halftone {

/// How many bytes at the end of `text` begin a character of UTF-8 and may yet become one: 0 to 3.
std::size_t unfinished_utf8(std::string_view text);

}  // namespace halftone
