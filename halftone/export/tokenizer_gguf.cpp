// SPDX-License-Identifier: Apache-2.0
#include "halftone/export/tokenizer_gguf.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "halftone/core/error.h"
#include "halftone/system/json_reader_impl.h"
#include "halftone/tokenizer/byte_alphabet.h"
#include "halftone/tokenizer/tokenizer_json.h"

namespace halftone {
namespace {

struct NamedRule {
  WordRule rule;
  const char* name;
  bool ignore_merges;  // that llama.cpp takes with the name
};
constexpr std::array kPre = {NamedRule{WordRule::kGpt2, "gpt-2", false},
                             NamedRule{WordRule::kQwen2, "qwen2", false},
                             NamedRule{WordRule::kLlama3, "llama-bpe", true}};
// llama.cpp's kinds of tokens.
constexpr std::int32_t kNormalToken = 1;
constexpr std::int32_t kControlToken = 3;      // found in text only where that is asked for
constexpr std::int32_t kUserDefinedToken = 4;  // found in any case
constexpr std::int32_t kUnusedToken = 5;

[[noreturn]] void refuse_tokenizer(const std::string& reason) {
  throw UserError(fmt::format(
      "GGUF can't express this tokenizer: {}, so llama.cpp would give other ids than training; "
      "export with --format hf or safetensors",
      reason));
}

/// Whether a proper end of `first` begins `second`.
bool chains(std::string_view first, std::string_view second) {
  for (std::size_t size = 1; size < std::min(first.size(), second.size()); ++size)
    if (first.substr(first.size() - size) == second.substr(0, size)) return true;
  return false;
}

/// tokenizer.json's rule takes the first added token in the text, llama.cpp's the longest: they
/// differ where two overlap, and where one is looked for only after another that it holds.
void check_added_tokens(const std::vector<AddedToken>& tokens) {
  for (const AddedToken& one : tokens)
    for (const AddedToken& other : tokens) {
      if (one.content == other.content) continue;
      if (chains(one.content, other.content) ||
          (one.content.find(other.content) != std::string::npos &&
           one.normalized != other.normalized))
        refuse_tokenizer(fmt::format("its added tokens {} and {} can overlap in a text",
                                     quoted_json(one.content), quoted_json(other.content)));
    }
}

const NamedRule& pre_of(WordRule rule) {
  return *std::find_if(kPre.begin(), kPre.end(),
                       [&](const NamedRule& known) { return known.rule == rule; });
}

void check_expressible(const Tokenizer& tokenizer, const TokenizerSpec& spec) {
  if (spec.words == WordRule::kNone) refuse_tokenizer("it does not split text into words");
  if (spec.add_prefix_space) refuse_tokenizer("it puts a space before a text (add_prefix_space)");
  if (spec.ignore_merges != pre_of(spec.words).ignore_merges)
    refuse_tokenizer(spec.ignore_merges ? "it takes whole words first (ignore_merges)"
                                        : "it does not take whole words first (ignore_merges)");
  for (int byte = 0; byte < 256; ++byte)
    if (!tokenizer.token_to_id(byte_character(static_cast<std::uint8_t>(byte))))
      refuse_tokenizer(fmt::format("its vocabulary lacks the byte {}", byte));
  for (const auto& [left, right] : spec.merges)
    if (left.find(' ') != std::string::npos || right.find(' ') != std::string::npos)
      refuse_tokenizer(fmt::format("its merge of {} and {} holds a space", quoted_json(left),
                                   quoted_json(right)));
  check_added_tokens(spec.added_tokens);
}

/// No other token's spelling: llama.cpp needs all of them to differ.
std::string unused_spelling(const Tokenizer& tokenizer, std::int64_t id) {
  std::string spelling = fmt::format("[UNUSED_{}]", id);
  while (tokenizer.token_to_id(spelling)) spelling += '_';
  return spelling;
}

void set_vocabulary(GgufMetadata& metadata, const Tokenizer& tokenizer, const TokenizerSpec& spec,
                    std::int64_t vocab_size) {
  std::vector<std::string> tokens;
  std::vector<std::int32_t> kinds;
  for (std::int64_t id = 0; id < std::max(vocab_size, tokenizer.vocab_size()); ++id) {
    const auto spelling = tokenizer.id_to_token(static_cast<std::int32_t>(id));
    tokens.push_back(spelling.value_or(unused_spelling(tokenizer, id)));
    const bool special = spelling && tokenizer.is_special(static_cast<std::int32_t>(id));
    kinds.push_back(!spelling ? kUnusedToken : special ? kControlToken : kNormalToken);
  }
  for (const AddedToken& token : spec.added_tokens)
    if (!tokenizer.is_special(token.id))
      kinds[static_cast<std::size_t>(token.id)] = kUserDefinedToken;
  metadata.set("tokenizer.ggml.tokens", GgufArray(std::move(tokens)));
  metadata.set("tokenizer.ggml.token_type", GgufArray(std::move(kinds)));
}

/// Those that encode() applies: text never becomes a special token by merging.
std::vector<std::string> merges_of(const Tokenizer& tokenizer, const TokenizerSpec& spec) {
  std::vector<std::string> merges;
  for (const auto& [left, right] : spec.merges) {
    const auto merged = tokenizer.token_to_id(left + right);
    if (merged && !tokenizer.is_special(*merged)) merges.push_back(left + " " + right);
  }
  return merges;
}

std::string token_at(const std::vector<std::string>& tokens, const GgufMetadata& metadata,
                     const std::string& key) {
  const std::int64_t id = metadata.integer(key);
  if (id < 0 || static_cast<std::size_t>(id) >= tokens.size())
    throw UserError(
        fmt::format("the metadata \"{}\" is {}, but there are {} tokens", key, id, tokens.size()));
  return tokens[static_cast<std::size_t>(id)];
}

std::pair<std::string, std::string> merge_of(const std::string& text, std::size_t rank) {
  const std::size_t space = text.find(' ', 1);
  if (space == std::string::npos || space + 1 == text.size())
    throw UserError(
        fmt::format("the metadata \"tokenizer.ggml.merges\" hold {} as number {}, "
                    "expected two tokens with a space between them",
                    quoted_json(text), rank));
  return {text.substr(0, space), text.substr(space + 1)};
}

TokenizerSpec spec_of_gguf(const GgufMetadata& metadata) {
  const auto require = [&](const std::string& key, const std::string& expected) {
    if (const std::string& value = metadata.text(key); value != expected)
      throw UserError(
          fmt::format("the metadata \"{}\" is {}, expected {}", key, quoted_json(value), expected));
  };
  require("tokenizer.ggml.model", "gpt2");
  const std::string& pre = metadata.text("tokenizer.ggml.pre");
  const auto named = std::find_if(kPre.begin(), kPre.end(),
                                  [&](const NamedRule& known) { return pre == known.name; });
  if (named == kPre.end())
    throw UserError(
        fmt::format("the metadata \"tokenizer.ggml.pre\" is {}, expected gpt-2, qwen2 or llama-bpe",
                    quoted_json(pre)));
  const std::vector<std::string>& tokens = metadata.texts("tokenizer.ggml.tokens");
  const std::vector<std::int64_t> kinds = metadata.integers("tokenizer.ggml.token_type");
  if (kinds.size() != tokens.size())
    throw UserError(
        fmt::format("it has {} tokens, but {} types of tokens", tokens.size(), kinds.size()));
  TokenizerSpec spec;
  spec.words = named->rule;
  spec.ignore_merges = named->ignore_merges;
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    const auto id = static_cast<std::int32_t>(i);
    if (kinds[i] == kUnusedToken) continue;
    spec.vocab.emplace_back(tokens[i], id);
    if (kinds[i] == kControlToken || kinds[i] == kUserDefinedToken)
      spec.added_tokens.push_back(
          {.id = id, .content = tokens[i], .special = kinds[i] == kControlToken});
  }
  const std::vector<std::string>& merges = metadata.texts("tokenizer.ggml.merges");
  for (std::size_t rank = 0; rank < merges.size(); ++rank)
    spec.merges.push_back(merge_of(merges[rank], rank));
  return spec;
}

}  // namespace

void set_tokenizer_metadata(GgufMetadata& metadata, const Tokenizer& tokenizer,
                            std::int64_t vocab_size) {
  const TokenizerSpec spec = parse_tokenizer_json(tokenizer.json(), "tokenizer.json");
  check_expressible(tokenizer, spec);
  const SpecialTokens special = tokenizer.special_tokens();
  metadata.set("tokenizer.ggml.model", std::string("gpt2"));
  metadata.set("tokenizer.ggml.pre", std::string(pre_of(spec.words).name));
  set_vocabulary(metadata, tokenizer, spec, vocab_size);
  metadata.set("tokenizer.ggml.merges", GgufArray(merges_of(tokenizer, spec)));
  const auto set_id = [&](const char* key, std::int64_t id) {
    metadata.set(key, static_cast<std::uint32_t>(id));
  };
  set_id("tokenizer.ggml.bos_token_id", special.bos);
  set_id("tokenizer.ggml.eos_token_id", special.eos);
  set_id("tokenizer.ggml.padding_token_id", special.pad);
  // A text begins with bos in training and in `halftone generate`.
  metadata.set("tokenizer.ggml.add_bos_token", true);
  metadata.set("tokenizer.ggml.add_eos_token", false);
  metadata.set("tokenizer.ggml.add_space_prefix", false);
  const TokenizerConfig config =
      parse_tokenizer_config(tokenizer.config_json(), "tokenizer_config.json");
  if (config.chat_template) metadata.set("tokenizer.chat_template", *config.chat_template);
}

Tokenizer tokenizer_of_gguf(const GgufMetadata& metadata, const std::string& origin) {
  const TokenizerSpec spec = spec_of_gguf(metadata);
  const std::vector<std::string>& tokens = metadata.texts("tokenizer.ggml.tokens");
  TokenizerConfig config{
      .bos_token = token_at(tokens, metadata, "tokenizer.ggml.bos_token_id"),
      .eos_token = token_at(tokens, metadata, "tokenizer.ggml.eos_token_id"),
      .pad_token = token_at(tokens, metadata, "tokenizer.ggml.padding_token_id")};
  if (metadata.contains("tokenizer.chat_template"))
    config.chat_template = metadata.text("tokenizer.chat_template");
  return Tokenizer::from_json(write_tokenizer_json(spec), write_tokenizer_config(config, spec),
                              origin);
}

}  // namespace halftone
