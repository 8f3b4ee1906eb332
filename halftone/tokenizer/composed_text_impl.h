// SPDX-License-Identifier: Apache-2.0
// Private to this room.
#pragma once

#include <string>
#include <string_view>

namespace halftone {

/// `text` in Unicode's normalization form NFC. What is not UTF-8 stays as it is.
std::string composed_text(std::string_view text);

}  // namespace halftone
