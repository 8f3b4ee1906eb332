// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace halftone {

/// Finds fixed strings in a text: the leftmost, and the longest of those that begin there.
class AddedTokenMatcher {
 public:
  struct Match {
    std::size_t begin;
    std::size_t end;
    std::int32_t id;
  };

  /// `content` must not be empty.
  void add(std::string content, std::int32_t id);

  /// The first match that begins at `from` or later.
  std::optional<Match> find(std::string_view text, std::size_t from) const;

 private:
  struct Token {
    std::string content;
    std::int32_t id;
  };
  std::array<std::vector<Token>, 256> by_first_byte_;  // longest first
  bool empty_ = true;
};

}  // namespace halftone
