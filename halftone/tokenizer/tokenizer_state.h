// SPDX-License-Identifier: Apache-2.0
// The look-up tables of a Tokenizer, built once from its two files. Private to this room.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "halftone/tokenizer/added_token_matcher.h"
#include "halftone/tokenizer/chat_template.h"
#include "halftone/tokenizer/merge_table.h"
#include "halftone/tokenizer/pre_tokenizer.h"
#include "halftone/tokenizer/string_map.h"
#include "halftone/tokenizer/tokenizer_json.h"

namespace halftone {

constexpr std::int32_t kNoToken = -1;

struct AddedTokens {
  AddedTokenMatcher first;   // found in the whole text
  AddedTokenMatcher second;  // found in what lies between those
};

struct TokenizerState {
  struct Token {
    std::string spelling;  // as in the vocabulary; empty where no token has the id
    std::string bytes;     // what it decodes to
    bool special = false;
  };

  std::string origin;
  std::string json;
  std::string config_json;

  std::vector<Token> tokens;  // by id
  StringMap<std::int32_t> ids;
  std::array<std::int32_t, 256> byte_ids;
  MergeTable merges;  // none makes a special token
  AddedTokens all_added;
  AddedTokens plain_added;  // those that are not special
  AddedTokenMatcher special_added;

  std::int32_t unk = kNoToken;
  bool fuse_unk = false;
  bool ignore_merges = false;
  bool add_prefix_space = false;
  WordRule words = WordRule::kGpt2;
  bool composes = false;

  std::int32_t bos = kNoToken;
  std::int32_t eos = kNoToken;
  std::int32_t pad = kNoToken;
  std::optional<ChatTemplate> chat;

  bool is_special(std::int32_t id) const {
    return id >= 0 && static_cast<std::size_t>(id) < tokens.size() &&
           tokens[static_cast<std::size_t>(id)].special;
  }

  std::int32_t find(std::string_view token) const {
    const auto found = ids.find(token);
    return found == ids.end() ? kNoToken : found->second;
  }
};

/// Throws UserError where tokens, merges and ids do not fit together.
TokenizerState build_tokenizer_state(std::string_view json, std::string_view config_json,
                                     const std::string& origin);

}  // namespace halftone
