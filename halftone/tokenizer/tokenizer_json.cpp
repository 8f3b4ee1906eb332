// SPDX-License-Identifier: Apache-2.0
#include "halftone/tokenizer/tokenizer_json.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <unordered_set>

#include "halftone/core/error.h"
#include "halftone/core/text.h"
#include "halftone/system/json_reader_impl.h"

namespace halftone {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;

void require_null(const JsonField& field) {
  if (!field.is_null()) field.fail("is not supported and must be null");
}

void require_empty(const JsonField& field) {
  if (!field.as_optional_string().value_or("").empty())
    field.fail("is not supported and must be null");
}

void require_false(const JsonField& field) {
  if (field.as_bool(false)) field.fail("is not supported and must be false");
}

void require_byte_level(const JsonField& field) {
  if (!field.value().is_object() || field["type"].as_optional_string() != "ByteLevel")
    field.fail("must be of type ByteLevel, the only one that is supported");
}

// `limit`: twice the number of tokens, so that what is sized by ids is not larger than the file.
std::int32_t read_id(const JsonField& field, std::size_t limit) {
  return static_cast<std::int32_t>(field.as_integer(0, static_cast<std::int64_t>(limit)));
}

struct NamedRule {
  WordRule rule;
  std::string_view regex;
};

constexpr std::array kSplits = {
    NamedRule{WordRule::kQwen2, R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|)"
                                R"( ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"},
    NamedRule{WordRule::kLlama3,
              R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|)"
              R"( ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"}};

bool has_type(const JsonField& field, std::string_view type) {
  return field.value().is_object() && field["type"].as_optional_string() == type;
}

WordRule read_split(const JsonField& field) {
  if (!has_type(field, "Split")) field.fail("must be of type Split, before a ByteLevel");
  if (field["behavior"].as_optional_string() != "Isolated")
    field["behavior"].fail("must be Isolated, the only one that is supported");
  require_false(field["invert"]);
  const JsonField pattern = field["pattern"];
  if (!pattern.value().is_object()) pattern.fail("must be an object with a Regex");
  const std::string regex = pattern["Regex"].as_string();
  for (const NamedRule& known : kSplits)
    if (known.regex == regex) return known.rule;
  pattern["Regex"].fail("must be that of Qwen2 or Llama 3, the only ones that are supported");
}

void read_byte_level(const JsonField& field, TokenizerSpec& spec) {
  require_byte_level(field);
  spec.add_prefix_space = field["add_prefix_space"].as_bool(true);
  spec.words = field["use_regex"].as_bool(true) ? WordRule::kGpt2 : WordRule::kNone;
}

void read_pre_tokenizer(const JsonField& field, TokenizerSpec& spec) {
  if (!has_type(field, "Sequence")) return read_byte_level(field, spec);
  const JsonField parts = field["pretokenizers"];
  if (parts.array_size() != 1 && parts.array_size() != 2)
    parts.fail("must hold a ByteLevel, or a Split and a ByteLevel");
  const JsonField last = parts[parts.array_size() - 1];
  read_byte_level(last, spec);
  if (parts.array_size() == 1) return;
  if (spec.words != WordRule::kNone) last.fail("must have use_regex false behind a Split");
  if (spec.add_prefix_space) last.fail("must have add_prefix_space false behind a Split");
  spec.words = read_split(parts[0]);
}

// It would only add tokens that mark the sequence, or change offsets, which are not kept here.
void read_post_processor(const JsonField& field) {
  if (field.is_null() || has_type(field, "ByteLevel") || has_type(field, "TemplateProcessing"))
    return;
  if (!has_type(field, "Sequence"))
    field.fail("must be null, or of type ByteLevel, TemplateProcessing or Sequence");
  const JsonField parts = field["processors"];
  for (std::size_t i = 0; i < parts.array_size(); ++i)
    if (!has_type(parts[i], "ByteLevel") && !has_type(parts[i], "TemplateProcessing"))
      parts[i].fail("must be of type ByteLevel or TemplateProcessing");
}

bool read_normalizer(const JsonField& field) {
  if (field.is_null()) return false;
  if (!has_type(field, "NFC")) field.fail("must be null or of type NFC");
  return true;
}

void read_vocab(const JsonField& vocab, std::size_t limit, TokenizerSpec& spec) {
  std::unordered_set<std::int32_t> ids;
  vocab.for_each_member([&](const std::string& token, const JsonField& field) {
    const std::int32_t id = read_id(field, limit);
    if (!ids.insert(id).second) field.fail("must differ from every other token's id");
    spec.vocab.emplace_back(token, id);
  });
  std::sort(spec.vocab.begin(), spec.vocab.end(),
            [](const auto& a, const auto& b) { return a.second < b.second; });
}

// ["left", "right"], or "left right" as older files have it.
std::pair<std::string, std::string> read_merge(const JsonField& merge) {
  const json& value = merge.value();
  if (value.is_array() && value.size() == 2) return {merge[0].as_string(), merge[1].as_string()};
  if (value.is_string()) {
    const auto text = value.get<std::string>();
    const std::size_t space = text.find(' ');
    if (space != std::string::npos && text.find(' ', space + 1) == std::string::npos)
      return {text.substr(0, space), text.substr(space + 1)};
  }
  merge.fail("must be a pair of tokens, [\"a\", \"b\"] or \"a b\"");
}

void read_model(const JsonField& model, std::size_t limit, TokenizerSpec& spec) {
  if (model["type"].as_optional_string().value_or("BPE") != "BPE")
    model["type"].fail("must be BPE, the only kind of model that is supported");
  const JsonField dropout = model["dropout"];
  if (!dropout.is_null() && dropout.value() != 0)
    dropout.fail("must be null, because encoding would be random otherwise");
  require_empty(model["continuing_subword_prefix"]);
  require_empty(model["end_of_word_suffix"]);
  require_false(model["byte_fallback"]);
  spec.unk_token = model["unk_token"].as_optional_string();
  spec.fuse_unk = model["fuse_unk"].as_bool(false);
  spec.ignore_merges = model["ignore_merges"].as_bool(false);
  read_vocab(model["vocab"], limit, spec);
  const JsonField merges = model["merges"];
  for (std::size_t i = 0; i < merges.array_size(); ++i)
    spec.merges.push_back(read_merge(merges[i]));
}

AddedToken read_added_token(const JsonField& field, std::size_t limit) {
  AddedToken token;
  token.id = read_id(field["id"], limit);
  token.content = field["content"].as_string();
  if (token.content.empty()) field["content"].fail("must not be empty");
  token.special = field["special"].as_bool(false);
  token.normalized = field["normalized"].as_bool(!token.special);
  for (const char* flag : {"single_word", "lstrip", "rstrip"}) require_false(field[flag]);
  return token;
}

// "<s>", or {"content": "<s>", ...} as some versions write it.
std::optional<std::string> read_token_name(const JsonField& field) {
  return field.value().is_object() ? field["content"].as_optional_string()
                                   : field.as_optional_string();
}

ordered_json flags_of(const AddedToken& token) {
  return {{"content", token.content}, {"single_word", false},           {"lstrip", false},
          {"rstrip", false},          {"normalized", token.normalized}, {"special", token.special}};
}

ordered_json byte_level(bool add_prefix_space, bool use_regex) {
  return {{"type", "ByteLevel"},
          {"add_prefix_space", add_prefix_space},
          {"trim_offsets", true},
          {"use_regex", use_regex}};
}

ordered_json pre_tokenizer_of(const TokenizerSpec& spec) {
  for (const NamedRule& split : kSplits)
    if (split.rule == spec.words)
      return {{"type", "Sequence"},
              {"pretokenizers", ordered_json::array({{{"type", "Split"},
                                                      {"pattern", {{"Regex", split.regex}}},
                                                      {"behavior", "Isolated"},
                                                      {"invert", false}},
                                                     byte_level(spec.add_prefix_space, false)})}};
  return byte_level(spec.add_prefix_space, spec.words == WordRule::kGpt2);
}

ordered_json model_of(const TokenizerSpec& spec) {
  ordered_json vocab = ordered_json::object();
  // Straight into the underlying list: operator[] would search it from the front each time.
  auto& entries = vocab.get_ref<ordered_json::object_t&>();
  for (const auto& [token, id] : spec.vocab) entries.emplace_back(token, id);
  ordered_json merges = ordered_json::array();
  for (const auto& [left, right] : spec.merges) merges.push_back({left, right});
  ordered_json model = {{"type", "BPE"}, {"dropout", nullptr}, {"unk_token", nullptr}};
  if (spec.unk_token) model["unk_token"] = *spec.unk_token;
  model["continuing_subword_prefix"] = nullptr;
  model["end_of_word_suffix"] = nullptr;
  model["fuse_unk"] = spec.fuse_unk;
  model["byte_fallback"] = false;
  model["ignore_merges"] = spec.ignore_merges;
  model["vocab"] = std::move(vocab);
  model["merges"] = std::move(merges);
  return model;
}

}  // namespace

TokenizerSpec parse_tokenizer_json(std::string_view text, const std::string& origin) {
  const JsonDocument document = parse_json(text, origin);
  const JsonField root = document.root();
  const JsonField added = root["added_tokens"];
  const JsonField vocab = root["model"]["vocab"];
  if (!vocab.value().is_object()) vocab.fail("must be an object of tokens and their ids");
  const std::size_t added_size = added.is_null() ? 0 : added.array_size();
  const std::size_t limit = 2 * (vocab.value().size() + added_size);

  TokenizerSpec spec;
  require_null(root["truncation"]);
  require_null(root["padding"]);
  spec.composes = read_normalizer(root["normalizer"]);
  read_pre_tokenizer(root["pre_tokenizer"], spec);
  read_post_processor(root["post_processor"]);
  require_byte_level(root["decoder"]);
  read_model(root["model"], limit, spec);
  for (std::size_t i = 0; i < added_size; ++i)
    spec.added_tokens.push_back(read_added_token(added[i], limit));
  return spec;
}

std::string write_tokenizer_json(const TokenizerSpec& spec) {
  ordered_json added = ordered_json::array();
  for (const AddedToken& token : spec.added_tokens) {
    ordered_json entry = {{"id", token.id}};
    entry.update(flags_of(token));
    added.push_back(std::move(entry));
  }
  const ordered_json normalizer =
      spec.composes ? ordered_json{{"type", "NFC"}} : ordered_json(nullptr);
  const ordered_json document = {
      {"version", "1.0"},          {"truncation", nullptr},
      {"padding", nullptr},        {"added_tokens", std::move(added)},
      {"normalizer", normalizer},  {"pre_tokenizer", pre_tokenizer_of(spec)},
      {"post_processor", nullptr}, {"decoder", byte_level(true, true)},
      {"model", model_of(spec)}};
  return document.dump(2);
}

TokenizerConfig parse_tokenizer_config(std::string_view text, const std::string& origin) {
  const JsonDocument document = parse_json(text, origin);
  const JsonField root = document.root();
  TokenizerConfig config;
  config.bos_token = read_token_name(root["bos_token"]);
  config.denies_bos =
      root.value().is_object() && root.value().contains("bos_token") && root["bos_token"].is_null();
  config.eos_token = read_token_name(root["eos_token"]);
  config.pad_token = read_token_name(root["pad_token"]);
  config.unk_token = read_token_name(root["unk_token"]);
  // Some files hold several named templates in an array; none of those is MiniMind's.
  if (root["chat_template"].value().is_string())
    config.chat_template = root["chat_template"].as_string();
  return config;
}

std::string with_chat_template(std::string_view config_json, std::string_view chat_template,
                               const std::string& origin) {
  if (find_invalid_utf8(chat_template))
    throw UserError(fmt::format("{}: expected a chat template in UTF-8", origin));
  JsonDocument document = parse_json(config_json.empty() ? "{}" : config_json, origin);
  if (!document.value.is_object()) document.root().fail("must be an object");
  document.value["chat_template"] = chat_template;
  return document.value.dump(2);
}

std::string write_tokenizer_config(const TokenizerConfig& config, const TokenizerSpec& spec) {
  ordered_json decoder = ordered_json::object();
  for (const AddedToken& token : spec.added_tokens)
    decoder[std::to_string(token.id)] = flags_of(token);
  ordered_json document = {{"add_bos_token", false},
                           {"add_eos_token", false},
                           {"add_prefix_space", spec.add_prefix_space},
                           {"added_tokens_decoder", std::move(decoder)},
                           {"clean_up_tokenization_spaces", false},
                           {"tokenizer_class", "PreTrainedTokenizerFast"}};
  const auto set = [&](const char* key, const std::optional<std::string>& value) {
    if (value) document[key] = *value;
  };
  set("bos_token", config.bos_token);
  set("eos_token", config.eos_token);
  set("pad_token", config.pad_token);
  set("unk_token", config.unk_token);
  set("chat_template", config.chat_template);
  return document.dump(2);
}

}  // namespace halftone
