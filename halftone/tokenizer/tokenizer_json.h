// SPDX-License-Identifier: Apache-2.0
// The two files of a tokenizer in Hugging Face form, as plain values: tokenizer.json (vocabulary,
// merges, how text is split) and tokenizer_config.json (which tokens mark beginning, end and
// padding, and the chat template).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "halftone/tokenizer/pre_tokenizer.h"

namespace halftone {

/// A token that is found in the text before anything is split.
struct AddedToken {
  std::int32_t id = 0;
  std::string content;
  bool special = true;      // left out by decode(skip_special_tokens)
  bool normalized = false;  // looked for only after all that are not
};

struct TokenizerSpec {
  std::vector<std::pair<std::string, std::int32_t>> vocab;  // in byte_alphabet.h's letters
  std::vector<std::pair<std::string, std::string>> merges;  // by rank
  std::vector<AddedToken> added_tokens;
  std::optional<std::string> unk_token;  // for bytes that the vocabulary lacks
  bool fuse_unk = false;                 // a run of them gives one token
  bool ignore_merges = false;            // a word that is in the vocabulary is not split
  bool add_prefix_space = false;
  WordRule words = WordRule::kGpt2;  // how text is split
  bool composes = false;             // text is brought into Unicode's form NFC first
};

struct TokenizerConfig {
  std::optional<std::string> bos_token;
  bool denies_bos = false;  // the file says that there is none
  std::optional<std::string> eos_token;
  std::optional<std::string> pad_token;
  std::optional<std::string> unk_token;
  std::optional<std::string> chat_template;
};

/// Reads byte-level BPE. Ids are checked to be unique and nearly dense, so nothing that is sized by
/// them can be large without the file being so. Throws UserError, which names `origin` and the
/// field, for what is malformed and for every feature that would change ids and is not supported.
TokenizerSpec parse_tokenizer_json(std::string_view json, const std::string& origin);

/// The text of tokenizer.json, its values in the order in which Hugging Face writes them.
std::string write_tokenizer_json(const TokenizerSpec& spec);

/// Reads the fields named above and ignores the others. Throws UserError.
TokenizerConfig parse_tokenizer_config(std::string_view json, const std::string& origin);

/// The text of tokenizer_config.json, which may be empty, with another chat template. Throws
/// UserError for what is no JSON object and for a template that is not UTF-8.
std::string with_chat_template(std::string_view config_json, std::string_view chat_template,
                               const std::string& origin);

/// A tokenizer_config.json for `config` and the added tokens of `spec`.
std::string write_tokenizer_config(const TokenizerConfig& config, const TokenizerSpec& spec);

}  // namespace halftone
