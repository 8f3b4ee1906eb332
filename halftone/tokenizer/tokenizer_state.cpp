// SPDX-License-Identifier: Apache-2.0
#include "halftone/tokenizer/tokenizer_state.h"

#include <fmt/format.h>

#include <algorithm>
#include <initializer_list>

#include "halftone/core/error.h"
#include "halftone/core/log.h"
#include "halftone/system/json_reader_impl.h"
#include "halftone/tokenizer/byte_alphabet.h"
#include "halftone/tokenizer/composed_text_impl.h"

namespace halftone {
namespace {

void place_token(TokenizerState& state, std::int32_t id, const std::string& spelling) {
  const auto index = static_cast<std::size_t>(id);
  if (state.tokens.size() <= index) state.tokens.resize(index + 1);
  state.tokens[index].spelling = spelling;
  state.ids.emplace(spelling, id);
}

void add_vocab(TokenizerState& state, const TokenizerSpec& spec) {
  for (const auto& [token, id] : spec.vocab) {
    place_token(state, id, token);
    state.tokens[static_cast<std::size_t>(id)].bytes = from_byte_alphabet(token).value_or(token);
  }
}

void place_added_tokens(TokenizerState& state, const TokenizerSpec& spec) {
  for (const AddedToken& token : spec.added_tokens) {
    const auto index = static_cast<std::size_t>(token.id);
    const std::int32_t known = state.find(token.content);
    const bool taken = index < state.tokens.size() && !state.tokens[index].spelling.empty();
    if (known == kNoToken ? taken : known != token.id)
      throw UserError(fmt::format(
          "{}: the added token {} has the id {}, which {}; expected an id that no other token has",
          state.origin, quoted_json(token.content), token.id,
          known == kNoToken
              ? fmt::format("belongs to {}", quoted_json(state.tokens[index].spelling))
              : fmt::format("differs from its id {} in model.vocab", known)));
    place_token(state, token.id, token.content);
    state.tokens[index].bytes = token.content;
    state.tokens[index].special = token.special;
  }
}

// Once it is known which tokens are special.
void add_matchers(TokenizerState& state, const TokenizerSpec& spec) {
  const auto add = [&spec](AddedTokens& to, const AddedToken& token) {
    if (token.normalized)
      to.second.add(spec.composes ? composed_text(token.content) : token.content, token.id);
    else
      to.first.add(token.content, token.id);
  };
  for (const AddedToken& token : spec.added_tokens) {
    add(state.all_added, token);
    if (state.is_special(token.id))
      state.special_added.add(token.content, token.id);
    else
      add(state.plain_added, token);
  }
}

void add_merges(TokenizerState& state, const TokenizerSpec& spec) {
  for (std::size_t rank = 0; rank < spec.merges.size(); ++rank) {
    const auto require = [&](const std::string& token) {
      const std::int32_t id = state.find(token);
      if (id == kNoToken)
        throw UserError(
            fmt::format("{}: model.merges[{}] needs the token {}, which model.vocab "
                        "lacks; vocabulary and merges must come from one training",
                        state.origin, rank, quoted_json(token)));
      return id;
    };
    const auto& [left, right] = spec.merges[rank];
    const std::int32_t merged = require(left + right);
    // Text must not become a special token by merging. Where special tokens are read from text,
    // they are found before anything is merged.
    if (!state.is_special(merged)) state.merges.add(require(left), require(right), merged);
  }
}

void add_bytes(TokenizerState& state, const TokenizerSpec& spec) {
  for (int byte = 0; byte < 256; ++byte)
    state.byte_ids[static_cast<std::size_t>(byte)] =
        state.find(byte_character(static_cast<std::uint8_t>(byte)));
  if (spec.unk_token) state.unk = state.find(*spec.unk_token);
  const auto missing = std::count(state.byte_ids.begin(), state.byte_ids.end(), kNoToken);
  if (missing > 0 && state.unk == kNoToken)
    log_warning(
        fmt::format("{}: the vocabulary lacks {} of the 256 bytes; text that needs them is "
                    "left out when it is encoded",
                    state.origin, missing));
}

// The configured token, which must exist, else the first of MiniMind's names that does.
std::int32_t choose(const TokenizerState& state, std::string_view key,
                    const std::optional<std::string>& configured,
                    std::initializer_list<std::string_view> names) {
  if (configured) {
    const std::int32_t id = state.find(*configured);
    if (id == kNoToken)
      throw UserError(
          fmt::format("{}: tokenizer_config.json names {} as {}, but the vocabulary has no "
                      "such token; name one that it has",
                      state.origin, quoted_json(*configured), key));
    return id;
  }
  for (const std::string_view name : names)
    if (const std::int32_t id = state.find(name); id != kNoToken) return id;
  return kNoToken;
}

void add_roles(TokenizerState& state, const TokenizerConfig& config) {
  // Qwen has none: what separates documents in its training stands before one, too.
  state.bos = config.denies_bos && state.find("<|endoftext|>") != kNoToken
                  ? state.find("<|endoftext|>")
                  : choose(state, "bos_token", config.bos_token, {"<s>", "<|im_start|>"});
  state.eos = choose(state, "eos_token", config.eos_token, {"</s>", "<|im_end|>"});
  state.pad = choose(state, "pad_token", config.pad_token ? config.pad_token : config.unk_token,
                     {"<unk>", "<|endoftext|>"});
  if (state.pad == kNoToken) state.pad = state.eos;
  for (const std::int32_t id : {state.bos, state.eos, state.pad})
    if (id != kNoToken) state.tokens[static_cast<std::size_t>(id)].special = true;
}

std::optional<std::string> spelling_of(const TokenizerState& state, std::int32_t id) {
  if (id == kNoToken) return std::nullopt;
  return state.tokens[static_cast<std::size_t>(id)].spelling;
}

// That of MiniMind's generation whose tokens these are.
ChatTemplate default_chat(const TokenizerState& state, const std::string& bos,
                          const std::string& eos) {
  ChatTemplate chat = bos != "<|im_start|>"               ? ChatTemplate::minimind_v2()
                      : state.find("<think>") != kNoToken ? ChatTemplate::minimind_v3()
                                                          : ChatTemplate::minimind_2504();
  chat.bos = bos;
  chat.eos = eos;
  return chat;
}

void add_chat(TokenizerState& state, const TokenizerConfig& config) {
  const auto bos = spelling_of(state, state.bos);
  const auto eos = spelling_of(state, state.eos);
  if (!bos || !eos) return;
  if (!config.chat_template) {
    state.chat = default_chat(state, *bos, *eos);
    return;
  }
  state.chat = recognise_chat_template(*config.chat_template, *bos, *eos);
  // The marks of turns need not be those of documents.
  if (!state.chat && state.find("<|im_start|>") != kNoToken && state.find("<|im_end|>") != kNoToken)
    state.chat = recognise_chat_template(*config.chat_template, "<|im_start|>", "<|im_end|>");
}

std::string default_config(const TokenizerState& state, const TokenizerSpec& spec) {
  TokenizerConfig config;
  config.bos_token = spelling_of(state, state.bos);
  config.eos_token = spelling_of(state, state.eos);
  config.pad_token = spelling_of(state, state.pad);
  config.unk_token = config.pad_token;
  if (state.chat) config.chat_template = state.chat->jinja();
  return write_tokenizer_config(config, spec);
}

}  // namespace

TokenizerState build_tokenizer_state(std::string_view json, std::string_view config_json,
                                     const std::string& origin) {
  const TokenizerSpec spec = parse_tokenizer_json(json, origin);
  const TokenizerConfig config =
      config_json.empty()
          ? TokenizerConfig{}
          : parse_tokenizer_config(config_json, origin + " (its tokenizer_config.json)");
  TokenizerState state;
  state.origin = origin;
  state.json = json;
  state.fuse_unk = spec.fuse_unk;
  state.ignore_merges = spec.ignore_merges;
  state.add_prefix_space = spec.add_prefix_space;
  state.words = spec.words;
  state.composes = spec.composes;
  add_vocab(state, spec);
  place_added_tokens(state, spec);
  add_roles(state, config);
  add_matchers(state, spec);
  add_merges(state, spec);
  add_bytes(state, spec);
  add_chat(state, config);
  state.config_json = config_json.empty() ? default_config(state, spec) : std::string(config_json);
  return state;
}

}  // namespace halftone
