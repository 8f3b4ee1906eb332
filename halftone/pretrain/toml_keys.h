// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace halftone {

/// The line (from 1) of the first key in a TOML document that has more than `most` parts, such as
/// a.b.c, or nothing. toml++ recurses once for each part: without a limit a short file could
/// overflow the stack. (Nested values it limits itself.)
std::optional<std::int64_t> line_of_deep_key(std::string_view toml, int most);

}  // namespace halftone
