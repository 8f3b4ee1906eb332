// SPDX-License-Identifier: Apache-2.0
// Private to this room.
#pragma once

#include <string_view>

namespace halftone {

/// `text`, which is UTF-8, without the white space at both ends, as Python's str.strip() takes it
/// off.
std::string_view python_strip(std::string_view text);

}  // namespace halftone
