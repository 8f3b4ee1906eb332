// SPDX-License-Identifier: Apache-2.0
#include "halftone/tokenizer/added_token_matcher.h"

#include <algorithm>

namespace halftone {

void AddedTokenMatcher::add(std::string content, std::int32_t id) {
  std::vector<Token>& tokens = by_first_byte_[static_cast<unsigned char>(content[0])];
  const auto place = std::find_if(tokens.begin(), tokens.end(), [&](const Token& token) {
    return token.content.size() < content.size();
  });
  tokens.insert(place, {std::move(content), id});
  empty_ = false;
}

std::optional<AddedTokenMatcher::Match> AddedTokenMatcher::find(std::string_view text,
                                                                std::size_t from) const {
  if (empty_) return std::nullopt;
  for (std::size_t at = from; at < text.size(); ++at)
    for (const Token& token : by_first_byte_[static_cast<unsigned char>(text[at])])
      if (text.substr(at).starts_with(token.content))
        return Match{at, at + token.content.size(), token.id};
  return std::nullopt;
}

}  // namespace halftone
