// SPDX-License-Identifier: Apache-2.0
#include "halftone/pretrain/config_schema.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>

#include "halftone/core/error.h"
#include "halftone/core/text.h"
#include "halftone/precision/keep_fp32.h"
#include "halftone/pretrain/auto_precision.h"
#include "halftone/pretrain/config_file.h"
#include "halftone/pretrain/config_precision.h"
#include "halftone/pretrain/hugging_face_config.h"
#include "halftone/pretrain/peft_adapter.h"
#include "halftone/pretrain/run_weights.h"
#include "halftone/run/run_directory.h"
#include "halftone/train/layer_precision.h"

namespace halftone {
namespace fs = std::filesystem;
namespace {

std::string with_underscores(std::string_view text) {
  std::string result(text);
  std::replace(result.begin(), result.end(), '-', '_');
  return result;
}

// "n_layers" is meant as "model.n_layers"; else the key with the fewest slips.
std::optional<std::string> nearest_key(const std::string& key) {
  std::vector<std::string> keys;
  for (const ConfigField& field : config_fields()) {
    if (field.key.ends_with("." + key)) return field.key;
    keys.push_back(field.key);
  }
  return nearest_match(key, keys);
}

std::string toml_number(double value) {
  std::string text = fmt::format("{}", value);
  const bool looks_whole = text.find_first_not_of("-0123456789") == std::string::npos;
  return looks_whole ? text + ".0" : text;
}

std::string toml_string(const std::string& text) {
  // A JSON string is a TOML string, but for DEL.
  std::string quoted = nlohmann::json(text).dump();
  for (std::size_t at = 0; (at = quoted.find('\x7F', at)) != std::string::npos;)
    quoted.replace(at, 1, "\\u007F");
  return quoted;
}

template <class T>
std::optional<T> parse_whole(std::string_view text) {
  T value{};
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || stop != end || text.empty()) return std::nullopt;
  return value;
}

// "90", "90s", "3m", "1h30m", "1.5h", "2d": numbers with falling units; a bare number is seconds.
std::optional<double> parse_duration(std::string_view text) {
  constexpr std::string_view kUnits = "dhms";
  constexpr std::array<double, 4> kSeconds = {86400, 3600, 60, 1};
  if (const auto seconds = parse_number(text)) return seconds;
  double total = 0;
  std::size_t next_unit = 0;
  while (!text.empty()) {
    const std::size_t length = text.find_first_not_of("0123456789.");
    if (length == std::string_view::npos) return std::nullopt;
    const auto amount = parse_number(text.substr(0, length));
    const std::size_t unit = kUnits.find(text[length], next_unit);
    if (!amount || unit == std::string_view::npos) return std::nullopt;
    total += *amount * kSeconds.at(unit);
    next_unit = unit + 1;
    text.remove_prefix(length + 1);
  }
  return total > 0 ? std::optional(total) : std::nullopt;
}

std::optional<ConfigValue> parse_text(ConfigKind kind, const std::string& text) {
  const auto wrap = [](const auto& parsed) {
    return parsed ? std::optional<ConfigValue>(*parsed) : std::nullopt;
  };
  switch (kind) {
    case ConfigKind::kSwitch:
      if (text == "true" || text == "false") return text == "true";
      return std::nullopt;
    case ConfigKind::kInteger:
      return wrap(parse_whole<std::int64_t>(text));
    case ConfigKind::kNumber:
      return wrap(parse_number(text));
    case ConfigKind::kDuration:
      return wrap(parse_duration(text));
    case ConfigKind::kWordOrNumber:
    case ConfigKind::kText:
      return text;
    case ConfigKind::kTexts:
      return std::vector<std::string>{text};
  }
  return std::nullopt;
}

// The types that a field takes from a TOML file or another caller, brought to the one it holds.
std::optional<ConfigValue> converted(ConfigKind kind, const ConfigValue& value) {
  const auto* whole = std::get_if<std::int64_t>(&value);
  const auto* text = std::get_if<std::string>(&value);
  switch (kind) {
    case ConfigKind::kSwitch:
      return std::holds_alternative<bool>(value) ? std::optional(value) : std::nullopt;
    case ConfigKind::kInteger:
      return whole ? std::optional(value) : std::nullopt;
    case ConfigKind::kText:
      return text ? std::optional(value) : std::nullopt;
    case ConfigKind::kTexts:
      if (text) return std::vector<std::string>{*text};
      return std::holds_alternative<std::vector<std::string>>(value) ? std::optional(value)
                                                                     : std::nullopt;
    case ConfigKind::kWordOrNumber:
      if (whole) return fmt::format("{}", *whole);
      if (const auto* number = std::get_if<double>(&value)) return fmt::format("{}", *number);
      return text ? std::optional(value) : std::nullopt;
    case ConfigKind::kDuration:
      if (text) return parse_text(kind, *text);
      [[fallthrough]];
    case ConfigKind::kNumber:
      if (whole) return static_cast<double>(*whole);
      if (const auto* number = std::get_if<double>(&value); number && std::isfinite(*number))
        return value;
  }
  return std::nullopt;
}

std::string shown(const ConfigValue& value) {
  const auto show = [](const auto& v) -> std::string {
    using T = std::remove_cvref_t<decltype(v)>;
    if constexpr (std::is_same_v<T, std::monostate>)
      return "nothing";
    else if constexpr (std::is_same_v<T, std::string>)
      return "'" + v + "'";
    else if constexpr (std::is_same_v<T, std::vector<std::string>>)
      return fmt::format("a list of {}", v.size());
    else
      return fmt::format("{}", v);
  };
  return std::visit(show, value);
}

// What other programs call the precisions.
std::optional<std::string> precision_known_as(const std::string& name) {
  static const std::map<std::string, std::string, std::less<>> kNames = {
      {"fp16", "16-mixed"},       {"float16", "16-mixed"}, {"half", "16-mixed"},
      {"16", "16-mixed"},         {"amp", "16-mixed"},     {"bf16", "bf16-mixed"},
      {"bfloat16", "bf16-mixed"}, {"fp32", "32-true"},     {"float32", "32-true"},
      {"float", "32-true"},       {"32", "32-true"},       {"no", "32-true"}};
  const auto found = kNames.find(name);
  return found == kNames.end() ? std::nullopt : std::optional(found->second);
}

[[noreturn]] void refuse(const ConfigField& field, const ConfigValue& value,
                         const std::string& place) {
  std::string hint;
  if (const auto* text = std::get_if<std::string>(&value)) {
    std::optional<std::string> meant = nearest_match(*text, field.choices);
    if (field.key == "precision" && precision_known_as(*text)) meant = precision_known_as(*text);
    if (meant) hint = fmt::format("; did you mean '{}'?", *meant);
  }
  const auto* fraction = std::get_if<double>(&value);  // 3.0 where 3 is expected
  const bool shows_point =
      fraction != nullptr && std::isfinite(*fraction) && field.kind == ConfigKind::kInteger;
  const auto* number = std::get_if<std::int64_t>(&value);
  if (number != nullptr && *number > std::numeric_limits<std::int32_t>::max())
    hint = "; that is too large";
  throw UserError(fmt::format("{}: {} must be {}, got {}{}", place, field.key, field.expected,
                              shows_point ? toml_number(*fraction) : shown(value), hint));
}

std::string absolute_path(const std::string& path) {
  return path.empty() ? path : fs::absolute(path).lexically_normal().string();
}

ConfigValue with_absolute_paths(const ConfigField& field, ConfigValue value) {
  if (!field.is_path) return value;
  if (auto* one = std::get_if<std::string>(&value)) *one = absolute_path(*one);
  if (auto* many = std::get_if<std::vector<std::string>>(&value))
    for (std::string& path : *many) path = absolute_path(path);
  return value;
}

ConfigValue in_todays_words(const ConfigField& field, const ConfigValue& value) {
  const auto* text = std::get_if<std::string>(&value);
  const auto found =
      text != nullptr ? field.former_choices.find(*text) : field.former_choices.end();
  return found != field.former_choices.end() ? ConfigValue(found->second) : value;
}

void apply(const ConfigAssignment& assignment, TrainConfig& config) {
  const ConfigField& field = config_field(assignment.key, assignment.place);
  field.set(config, with_absolute_paths(field, assignment.value));
}

const ConfigAssignment* last_of(const std::vector<ConfigAssignment>& assignments,
                                std::string_view key) {
  const auto found = std::find_if(assignments.rbegin(), assignments.rend(),
                                  [&](const auto& one) { return one.key == key; });
  return found == assignments.rend() ? nullptr : &*found;
}

std::string place_of(const std::vector<ConfigAssignment>& assignments, const std::string& key) {
  const ConfigAssignment* found = last_of(assignments, key);
  return found != nullptr ? found->place : key;
}

bool is_given(const std::vector<ConfigAssignment>& assignments, std::string_view key) {
  return last_of(assignments, key) != nullptr;
}

/// The folder of weights to start from, where it says which model they are of. A preset that is
/// given beside it goes first.
std::optional<ModelConfig> model_to_start_from(const std::vector<ConfigAssignment>& assignments) {
  const ConfigAssignment* const init_from = last_of(assignments, "init_from");
  if (init_from == nullptr || is_given(assignments, "preset")) return std::nullopt;
  return model_of_folder(std::get<std::string>(init_from->value));
}

/// The folder with the tokenizer that the weights in `folder` were trained with; empty: none is
/// there, or it is gone.
std::string tokenizer_beside(const fs::path& folder) {
  std::error_code error;
  if (!fs::is_directory(folder, error)) return "";
  const auto weights = find_run_weights(folder);
  const fs::path place = weights ? weights->run : folder;
  return fs::exists(place / "tokenizer.json", error) ? place.string() : "";
}

// A default never contradicts what was given beside it.
/// Weights of which each process keeps a part are there while a block runs.
void adapt_recompute(TrainConfig& config) {
  if (config.shard == "parameters" && config.memory.recompute == "auto")
    config.memory.recompute = "blocks";
}

void adapt_defaults(TrainConfig& config, const std::vector<ConfigAssignment>& assignments) {
  ScalerConfig& scaler = config.scaler;
  if (config.out.empty()) config.out = "runs/" + config.preset;
  if (!is_given(assignments, "seq_len"))
    config.seq_len = std::min(config.seq_len, config.model.max_seq_len);
  // Another tokenizer would give the weights' ids to other words.
  if (!is_given(assignments, "tokenizer")) config.tokenizer = tokenizer_beside(config.init_from);
  if (config.task == "dpo" && !is_given(assignments, "pack")) config.pack = false;
  if (!is_given(assignments, "tokenizer_vocab_size") && config.model.vocab_size > 0)
    config.tokenizer_vocab_size = std::min(config.tokenizer_vocab_size, config.model.vocab_size);
  if (!is_given(assignments, "scaler.init_scale") && scaler.min_scale <= scaler.max_scale)
    scaler.init_scale = std::clamp(scaler.init_scale, scaler.min_scale, scaler.max_scale);
  adapt_recompute(config);
}

std::string scaled_precisions() {
  std::vector<std::string> names;
  for (const std::string& name : precision_names())
    if (parse_precision(name).loss_scaling) names.push_back(name);
  return fmt::format("{}", fmt::join(names, " and "));
}

void check_scaler(const TrainConfig& config, const std::vector<ConfigAssignment>& assignments) {
  const ScalerConfig& scaler = config.scaler;
  if (scaler.min_scale > scaler.max_scale) {
    const bool min_given = is_given(assignments, "scaler.min_scale");
    throw UserError(
        fmt::format("{}: scaler.min_scale must be at most scaler.max_scale, got {} and {}",
                    place_of(assignments, min_given ? "scaler.min_scale" : "scaler.max_scale"),
                    scaler.min_scale, scaler.max_scale));
  }
  if (scaler.init_scale < scaler.min_scale || scaler.init_scale > scaler.max_scale)
    throw UserError(
        fmt::format("{}: scaler.init_scale must lie between scaler.min_scale {} and "
                    "scaler.max_scale {}, got {}",
                    place_of(assignments, "scaler.init_scale"), scaler.min_scale, scaler.max_scale,
                    scaler.init_scale));
  if (config.loss_scale != "dynamic" && !policy_of(config).loss_scaling)
    throw UserError(
        fmt::format("{}: a loss scale goes with {} only, but precision is {}; leave it out",
                    place_of(assignments, "loss_scale"), scaled_precisions(), config.precision));
}

void check_keep_fp32(const TrainConfig& config, const std::vector<ConfigAssignment>& assignments) {
  if (config.keep_fp32.empty()) return;
  const std::string place = place_of(assignments, "keep_fp32");
  if (!policy_of(config).is_mixed())
    throw UserError(fmt::format(
        "{}: keep_fp32 goes with a mixed precision, but precision is {}; name one that ends in "
        "-mixed, or leave it out",
        place, config.precision));
  try {
    check_keep_fp32_patterns(config.keep_fp32);
  } catch (const UserError& error) {
    throw UserError(fmt::format("{}: {}", place, error.what()));
  }
}

void check_layers(const TrainConfig& config, const std::vector<ConfigAssignment>& assignments) {
  try {
    check_layer_precision(config.layer_precision, policy_of(config));
  } catch (const UserError& error) {
    throw UserError(fmt::format("{}: {}", place_of(assignments, "layer_precision"), error.what()));
  }
}

/// The parts of the memory recipe must go together in one of the precisions at least.
void check_memory(const TrainConfig& config) {
  if (config.precision != kAutoPrecision) {
    memory_policy(config.memory, parse_precision(config.precision));
    return;
  }
  if (choosable_precisions(config.memory).empty()) memory_policy(config.memory, PrecisionPolicy());
}

void check_validation(const TrainConfig& config, const std::vector<ConfigAssignment>& assignments) {
  if (!config.val_data.empty() && config.val_split)
    throw UserError(fmt::format(
        "{}: val_split holds documents of data out, and val_data names text of its own; give one "
        "of them",
        place_of(assignments, "val_split")));
  if (has_validation(config)) return;
  const char* const key = config.early_stop > 0 ? "early_stop" : "val_every";
  if (config.early_stop > 0 || config.val_every)
    throw UserError(fmt::format(
        "{}: {} needs text to validate on, got none; add val_split, such as --val-split 0.01, or "
        "val_data with a file",
        place_of(assignments, key), key));
}

void check_task(const TrainConfig& config, const std::vector<ConfigAssignment>& assignments) {
  const auto refuse = [&](const char* key, const std::string& what) {
    throw UserError(fmt::format("{}: {}", place_of(assignments, key), what));
  };
  if (config.document_mask && !config.pack)
    refuse("document_mask", "document_mask goes with packed rows, but pack is false; leave it out");
  if (config.task == "pretrain") return;
  if (config.special_tokens == "tokens")
    refuse("special_tokens",
           "special_tokens = tokens goes with task pretrain: in a chat, the template's marks alone "
           "are tokens; leave it out");
  if (config.task != "dpo") return;
  if (config.pack) refuse("pack", "task dpo needs rows of their own; set pack to false");
  if (config.init_from.empty())
    refuse("task", "task dpo starts from a trained model; name it with init_from");
  if (!config.keep_fp32.empty() || !config.layer_precision.empty())
    refuse("task",
           "task dpo does not take keep_fp32 and layer_precision, which its reference model would "
           "not have; leave them out");
  const bool releases =
      config.precision != kAutoPrecision &&
      memory_policy(config.memory, parse_precision(config.precision)).release_gradients;
  if (releases && config.accumulate > 1)
    refuse("accumulate",
           "task dpo does not accumulate where gradients are released; set accumulate to 1 or "
           "release_gradients to off");
}

void check_lora(const TrainConfig& config, const std::vector<ConfigAssignment>& assignments) {
  const auto refuse = [&](const char* key, const std::string& what) {
    throw UserError(fmt::format("{}: {}", place_of(assignments, key), what));
  };
  if (config.lora.rank == 0) {
    const LoraConfig none;
    for (const auto& [key, is_set] : {std::pair("lora.alpha", config.lora.alpha.has_value()),
                                      {"lora.dropout", config.lora.dropout != none.dropout},
                                      {"lora.targets", config.lora.targets != none.targets}})
      if (is_set)
        refuse(key, fmt::format("{} goes with adapters, but lora.rank is 0; set lora.rank, such as "
                                "to 16, or leave it out",
                                key));
    return;
  }
  if (config.init_from.empty())
    refuse("lora.rank",
           "lora.rank trains adapters beside the weights of a trained model, got none; name them "
           "with init_from");
  ModelConfig model = config.model;
  if (model.vocab_size == 0) model.vocab_size = config.tokenizer_vocab_size;
  validate(config.lora, model);
}

// What concerns several keys at once.
void check_shard(const TrainConfig& config, const std::vector<ConfigAssignment>& assignments) {
  if (config.shard == "parameters" && config.memory.recompute == "none")
    throw UserError(fmt::format(
        "{}: shard parameters has a block's weights in memory while it runs, in the backward pass "
        "once more, but recompute is none; choose shard gradients, or leave recompute out of a new "
        "run",
        place_of(assignments, "shard")));
}

void check_together(const TrainConfig& config, const std::vector<ConfigAssignment>& assignments) {
  check_shard(config, assignments);
  check_scaler(config, assignments);
  check_keep_fp32(config, assignments);
  check_layers(config, assignments);
  check_memory(config);
  check_validation(config, assignments);
  check_task(config, assignments);
  ModelConfig model = config.model;
  if (model.vocab_size == 0) model.vocab_size = config.tokenizer_vocab_size;
  validate(model);
  check_seq_len(config.seq_len, config.model, place_of(assignments, "seq_len"));
  check_lora(config, assignments);
}

/// What an adapter to go on from says, where the keys leave it open. A run has written it down.
void adopt_adapter(TrainConfig& config, const std::vector<ConfigAssignment>& assignments) {
  const auto is_open = [&](const char* key) { return !is_given(assignments, key); };
  if (config.lora_adapter.empty()) return;
  if (!is_open("lora.rank") && !is_open("lora.alpha") && !is_open("lora.targets")) return;
  ModelConfig model = config.model;
  if (model.vocab_size == 0) model.vocab_size = config.tokenizer_vocab_size;
  const LoraConfig theirs = read_adapter(config.lora_adapter, model).lora;
  if (is_open("lora.rank")) config.lora.rank = theirs.rank;
  if (is_open("lora.alpha")) config.lora.alpha = theirs.alpha;
  if (is_open("lora.targets")) config.lora.targets = theirs.targets;
  if (is_open("lora.dropout")) config.lora.dropout = theirs.dropout;
}

}  // namespace

const ConfigField& config_field(std::string_view key, const std::string& place) {
  const std::string wanted = with_underscores(key);
  for (const ConfigField& field : config_fields())
    if (field.key == wanted || (!field.former_key.empty() && field.former_key == wanted))
      return field;
  const auto nearest = nearest_key(wanted);
  throw UserError(fmt::format("{}: there is no key '{}'; {}", place, key,
                              nearest ? fmt::format("did you mean '{}'?", *nearest)
                                      : "see 'halftone train --help' for all keys"));
}

std::string flag_of(std::string_view key) {
  std::string flag = "--" + std::string(key);
  std::replace(flag.begin(), flag.end(), '_', '-');
  return flag;
}

std::string to_text(const ConfigField& field, const ConfigValue& value) {
  if (std::holds_alternative<std::monostate>(value)) return "";
  if (const auto* number = std::get_if<double>(&value))
    return field.kind == ConfigKind::kDuration ? fmt::format("\"{}s\"", *number)
                                               : toml_number(*number);
  if (const auto* text = std::get_if<std::string>(&value)) return toml_string(*text);
  if (const auto* texts = std::get_if<std::vector<std::string>>(&value)) {
    std::vector<std::string> quoted;
    for (const std::string& text : *texts) quoted.push_back(toml_string(text));
    return fmt::format("[{}]", fmt::join(quoted, ", "));
  }
  return std::visit(
      [](const auto& plain) -> std::string {
        if constexpr (std::is_integral_v<std::remove_cvref_t<decltype(plain)>>)
          return fmt::format("{}", plain);
        else
          return "";
      },
      value);
}

ConfigAssignment checked_assignment(const ConfigField& field, const ConfigValue& value,
                                    const std::string& place) {
  std::optional<ConfigValue> good = converted(field.kind, in_todays_words(field, value));
  const bool unset = good && std::holds_alternative<std::monostate>(*good);
  if (!good || (!unset && !field.accepts(*good))) refuse(field, value, place);
  return {field.key, std::move(*good), place};
}

ConfigAssignment assignment_from_flag(const std::string& key,
                                      const std::vector<std::string>& texts) {
  const std::string flag = flag_of(key);
  const ConfigField& field = config_field(key, flag);
  if (field.kind == ConfigKind::kTexts) return checked_assignment(field, texts, flag);
  if (texts.empty() && field.kind == ConfigKind::kSwitch) return {field.key, true, flag};
  if (texts.size() != 1)
    throw UserError(
        fmt::format("{}: expected one value, got {}; give the flag once", flag, texts.size()));
  const std::optional<ConfigValue> value = parse_text(field.kind, texts[0]);
  if (!value) refuse(field, texts[0], flag);
  return checked_assignment(field, *value, flag);
}

TrainConfig merge_config(const std::vector<ConfigAssignment>& assignments) {
  TrainConfig config;
  if (const ConfigAssignment* preset = last_of(assignments, "preset")) apply(*preset, config);
  if (const auto model = model_to_start_from(assignments)) {
    config.model = *model;
  } else {
    config.model = preset_config(config.preset);
    config.model.vocab_size = 0;
  }
  for (const ConfigAssignment& assignment : assignments)
    if (assignment.key != "preset") apply(assignment, config);
  adapt_defaults(config, assignments);
  return config;
}

TrainConfig resolve_config(const std::vector<ConfigAssignment>& assignments) {
  TrainConfig config = merge_config(assignments);
  adopt_adapter(config, assignments);
  check_together(config, assignments);
  return config;
}

void check_seq_len(std::int64_t seq_len, const ModelConfig& model, const std::string& place) {
  if (seq_len > model.max_seq_len)
    throw UserError(fmt::format("{}: seq_len must be at most model.max_seq_len {}, got {}", place,
                                model.max_seq_len, seq_len));
}

std::optional<ModelConfig> model_of_folder(const fs::path& folder) {
  std::error_code error;
  if (const auto weights = find_run_weights(folder)) return resume_config(weights->run, {}).model;
  if (fs::exists(folder / "config.json", error))
    return read_hugging_face_config(folder / "config.json");
  return std::nullopt;
}

std::vector<ConfigAssignment> saved_assignments(const fs::path& run_dir) {
  std::vector<ConfigAssignment> saved = read_config_file(find_run(run_dir).config());
  // A run that was begun before there was a choice goes on as it began.
  if (last_of(saved, "loss_average") == nullptr)
    saved.push_back({"loss_average", std::string("micro-batches"), "config.toml"});
  return saved;
}

TrainConfig resume_config(const fs::path& run_dir,
                          const std::vector<ConfigAssignment>& assignments) {
  TrainConfig config = resolve_config(saved_assignments(run_dir));
  config.out = run_dir.string();
  for (const ConfigAssignment& assignment : assignments) {
    const ConfigField& field = config_field(assignment.key, assignment.place);
    // The run has chosen when it began.
    if ((field.key == "precision" || field.key == "recompute") &&
        assignment.value == ConfigValue(std::string(kAutoPrecision)))
      continue;
    if (field.key == "out" &&
        absolute_path(std::get<std::string>(assignment.value)) == absolute_path(config.out))
      continue;
    TrainConfig changed = config;
    apply(assignment, changed);
    if (field.get(changed) == field.get(config)) continue;
    if (!field.may_change_on_resume) {
      const std::string saved = to_text(field, field.get(config));
      throw UserError(fmt::format(
          "{}: {} is {} in the run '{}' and can't be changed on resume; leave it out, or start a "
          "new run",
          assignment.place, field.key, saved.empty() ? "not set" : saved, run_dir.string()));
    }
    config = std::move(changed);
  }
  adapt_recompute(config);
  check_shard(config, assignments);
  check_validation(config, assignments);
  return config;
}

}  // namespace halftone
