// SPDX-License-Identifier: Apache-2.0
#include "halftone/pretrain/toml_keys.h"

#include <algorithm>

namespace halftone {
namespace {

/// Where the string that begins at `start` ends: behind its last quote, or at the end of its line
/// when it is never closed, which toml++ refuses.
std::size_t end_of_toml_string(std::string_view toml, std::size_t start) {
  const char quote = toml[start];
  const bool escapes = quote == '"';
  const bool is_long = toml.substr(start).starts_with(quote == '"' ? "\"\"\"" : "'''");
  const std::size_t closing = is_long ? 3 : 1;
  std::size_t at = start + closing;
  for (; at < toml.size(); ++at) {
    if (escapes && toml[at] == '\\') {
      ++at;
    } else if (!is_long && toml[at] == '\n') {
      return at;
    } else if (const std::size_t end = toml.find_first_not_of(quote, at);
               std::min(end, toml.size()) - at >= closing) {
      return is_long ? std::min({end, toml.size(), at + 5}) : at + 1;  // it may end in quotes
    }
  }
  return toml.size();
}

}  // namespace

std::optional<std::int64_t> line_of_deep_key(std::string_view toml, int most) {
  std::int64_t line = 1;
  int parts = 1;
  for (std::size_t at = 0; at < toml.size();) {
    const char c = toml[at];
    std::size_t next = at + 1;
    if (c == '"' || c == '\'') {
      next = end_of_toml_string(toml, at);
    } else if (c == '#') {
      next = std::min(toml.find('\n', at), toml.size());
    } else if (c == '.') {
      if (++parts > most) return line;
    } else if (std::string_view("=,[]{}\n").find(c) != std::string_view::npos) {
      parts = 1;
    }
    line +=
        std::count(toml.begin() + static_cast<std::ptrdiff_t>(at),
                   toml.begin() + static_cast<std::ptrdiff_t>(std::min(next, toml.size())), '\n');
    at = next;
  }
  return std::nullopt;
}

}  // namespace halftone
