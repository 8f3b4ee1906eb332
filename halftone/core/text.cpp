// SPDX-License-Identifier: Apache-2.0
#include "halftone/core/text.h"

#include <fmt/format.h>
#include <unicode/utf8.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <cmath>
#include <numeric>

namespace halftone {
namespace {

std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = row[0];
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t substituted = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, substituted});
    }
  }
  return row.back();
}

// Steps over the character at `at`, or over the maximal part of it that is well-formed so far
// (Unicode, section 3.9), and tells whether it was a whole one.
bool next_is_valid(std::string_view text, std::size_t& at) {
  const auto* bytes = reinterpret_cast<const std::uint8_t*>(text.data());
  UChar32 character = 0;
  U8_NEXT(bytes, at, text.size(), character);
  return character >= 0;
}

}  // namespace

std::optional<std::string> nearest_match(std::string_view word,
                                         const std::vector<std::string>& candidates) {
  std::optional<std::string> best;
  std::size_t best_distance = std::max<std::size_t>(2, word.size() / 2) + 1;
  for (const std::string& candidate : candidates) {
    const std::size_t distance = edit_distance(word, candidate);
    if (distance < best_distance) {
      best_distance = distance;
      best = candidate;
    }
  }
  return best;
}

std::optional<std::size_t> find_invalid_utf8(std::string_view text) {
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t begin = at;
    if (!next_is_valid(text, at)) return begin;
  }
  return std::nullopt;
}

std::string replace_invalid_utf8(std::string_view text) {
  std::string result;
  result.reserve(text.size());
  std::size_t kept = 0;  // bytes that are in the result
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t begin = at;
    if (next_is_valid(text, at)) continue;
    result += text.substr(kept, begin - kept);
    result += "\xEF\xBF\xBD";
    kept = at;
  }
  return result += text.substr(kept);
}

std::string html_escaped(std::string_view text) {
  std::string escaped;
  for (const char letter : replace_invalid_utf8(text)) switch (letter) {
      case '&':
        escaped += "&amp;";
        break;
      case '<':
        escaped += "&lt;";
        break;
      case '>':
        escaped += "&gt;";
        break;
      case '"':
        escaped += "&quot;";
        break;
      case '\'':
        escaped += "&#39;";
        break;
      default: {
        const auto code = static_cast<unsigned char>(letter);
        const bool is_control = (code < 0x20 && letter != '\n' && letter != '\t') || code == 0x7F;
        escaped += is_control ? std::string("\xEF\xBF\xBD") : std::string(1, letter);
      }
    }
  return escaped;
}

std::string format_bytes(std::uint64_t bytes) {
  constexpr std::array<const char*, 5> kUnits = {"B", "KiB", "MiB", "GiB", "TiB"};
  auto value = static_cast<double>(bytes);
  std::size_t unit = 0;
  while (value >= 1024 && unit + 1 < kUnits.size()) {
    value /= 1024;
    ++unit;
  }
  const int decimals = unit == 0 || value >= 10 ? 0 : 1;
  return fmt::format("{:.{}f} {}", value, decimals, kUnits[unit]);
}

std::optional<std::uint64_t> parse_bytes(std::string_view text) {
  constexpr std::array<std::string_view, 4> kPrefixes = {"k", "m", "g", "t"};
  constexpr double kMost = 0x1p60;
  std::string_view unit = text;
  unit.remove_prefix(std::min(text.find_first_not_of("0123456789."), text.size()));
  const auto number = parse_number(text.substr(0, text.size() - unit.size()));
  while (unit.starts_with(' ')) unit.remove_prefix(1);
  std::string small(unit);
  for (char& letter : small) letter = static_cast<char>(std::tolower(letter));
  double factor = small.empty() || small == "b" ? 1 : 0;
  double decimal = 1, binary = 1;
  for (const std::string_view prefix : kPrefixes) {
    decimal *= 1000;
    binary *= 1024;
    if (small == std::string(prefix) + "b") factor = decimal;
    if (small == std::string(prefix) + "ib") factor = binary;
  }
  if (!number || *number < 0 || factor == 0 || *number * factor > kMost) return std::nullopt;
  return static_cast<std::uint64_t>(*number * factor);
}

std::string format_seconds(double seconds) {
  if (seconds < 60) return fmt::format("{:.1f}s", seconds);
  const auto whole = std::int64_t{std::llround(seconds)};
  if (whole < 3600) return fmt::format("{}m{:02}s", whole / 60, whole % 60);
  return fmt::format("{}h{:02}m", whole / 3600, whole / 60 % 60);
}

std::string short_count(double value) {
  if (value >= 1e9) return fmt::format("{:.1f}B", value / 1e9);
  if (value >= 1e6) return fmt::format("{:.1f}M", value / 1e6);
  if (value >= 1e4) return fmt::format("{:.1f}k", value / 1e3);
  return fmt::format("{:.0f}", value);
}

std::optional<double> parse_number(std::string_view text) {
  double value = 0;
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || stop != end || text.empty() || !std::isfinite(value))
    return std::nullopt;
  return value;
}

}  // namespace halftone
