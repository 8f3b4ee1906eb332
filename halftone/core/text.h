// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace halftone {

/// The candidate with the smallest edit distance to `word`, or nothing when even that one is too
/// far to be a likely slip (more than half of the word's length, at least 2).
std::optional<std::string> nearest_match(std::string_view word,
                                         const std::vector<std::string>& candidates);

/// Offset in bytes of the first byte that breaks UTF-8 (RFC 3629: no overlong forms, no surrogates,
/// nothing above U+10FFFF), or nothing when all of `text` is valid.
std::optional<std::size_t> find_invalid_utf8(std::string_view text);

/// `text` with every maximal invalid part replaced by U+FFFD.
std::string replace_invalid_utf8(std::string_view text);

/// `text` with what HTML takes for its own escaped, and what it does not allow replaced by U+FFFD.
std::string html_escaped(std::string_view text);

/// "3.4 GiB", "12 MiB", "812 B".
std::string format_bytes(std::uint64_t bytes);

/// The number of bytes that a size spells ("8GiB", "7.5 GB", "8589934592"), or nothing: units of
/// 1000 (kB, MB, GB, TB) or 1024 (KiB, MiB, GiB, TiB), in either case; at most 2^60.
std::optional<std::uint64_t> parse_bytes(std::string_view text);

/// "1h02m", "3m05s", "4.2s".
std::string format_seconds(double seconds);

/// "512", "10.2k", "25.8M", "1.0B".
std::string short_count(double value);

/// The finite number that the whole of `text` spells ("128", "3e-5"), or nothing.
std::optional<double> parse_number(std::string_view text);

}  // namespace halftone
