// SPDX-License-Identifier: Apache-2.0
#include "halftone/pretrain/trained_model.h"

#include <fmt/format.h>

#include <array>
#include <nlohmann/json.hpp>
#include <optional>
#include <type_traits>

#include "halftone/core/error.h"
#include "halftone/io/safetensors.h"
#include "halftone/models/parameter_names.h"
#include "halftone/pretrain/config_schema.h"
#include "halftone/run/checkpoint.h"
#include "halftone/run/run_directory.h"
#include "halftone/system/file.h"

namespace halftone {
namespace {

using Json = nlohmann::json;

Json read_json(const std::filesystem::path& path) {
  Json json = Json::parse(read_file(path, std::uint64_t{1} << 20U), nullptr,
                          /*allow_exceptions=*/false);
  if (!json.is_object())
    throw UserError(fmt::format("{}: expected a JSON object, found something else or damaged text",
                                path.string()));
  return json;
}

/// The member `name` of a config.json, a T. Without a `fallback` it must be there.
template <class T>
T json_field(const Json& json, const std::filesystem::path& path, const char* name,
             std::optional<T> fallback = std::nullopt) {
  constexpr bool kWhole = std::is_integral_v<T>;
  const auto found = json.find(name);
  const bool is_missing = found == json.end() || found->is_null();
  if (is_missing && fallback) return *fallback;
  if (is_missing || !(kWhole ? found->is_number_integer() : found->is_number()))
    throw UserError(fmt::format("{}: expected '{}' to be {}, found {}", path.string(), name,
                                kWhole ? "an integer" : "a number",
                                is_missing ? "nothing" : found->dump()));
  return found->get<T>();
}

/// Other models use the same names of tensors: computing them as a MiniMind would mislead.
void check_is_supported(const Json& json, const std::filesystem::path& path) {
  const auto refuse = [&](const char* name, const Json& value) {
    throw UserError(fmt::format(
        "{}: {} {} is not supported; expected a MiniMind of the second generation in Llama's form",
        path.string(), name, value.dump()));
  };
  if (const auto act = json.find("hidden_act"); act != json.end() && *act != "silu")
    refuse("hidden_act", *act);
  for (const char* name : {"rope_scaling", "rope_parameters"}) {
    const auto rope = json.find(name);
    if (rope == json.end() || !rope->is_object()) continue;
    for (const char* type : {"type", "rope_type"})
      if (rope->contains(type) && rope->at(type) != "default") refuse(name, *rope);
  }
}

/// In a member of its own, or where newer files keep it.
double rope_theta(const Json& json, const std::filesystem::path& path) {
  const auto parameters = json.find("rope_parameters");
  const bool is_inside = parameters != json.end() && parameters->is_object();
  return json_field<double>(is_inside ? *parameters : json, path, "rope_theta");
}

/// The Llama form in which MiniMind's second generation is exchanged.
ModelConfig config_from_hugging_face(const std::filesystem::path& path) {
  const Json json = read_json(path);
  check_is_supported(json, path);
  const auto whole = [&](const char* name, std::optional<std::int64_t> fallback = std::nullopt) {
    return json_field<std::int64_t>(json, path, name, fallback);
  };
  ModelConfig config;
  config.dim = whole("hidden_size");
  config.n_layers = whole("num_hidden_layers");
  config.n_heads = whole("num_attention_heads");
  config.n_kv_heads = whole("num_key_value_heads", config.n_heads);
  config.head_dim = whole("head_dim", config.head_dim);
  config.hidden_dim = whole("intermediate_size");
  config.vocab_size = whole("vocab_size");
  config.max_seq_len = whole("max_position_embeddings");
  config.norm_eps = json_field<double>(json, path, "rms_norm_eps");
  config.rope_theta = rope_theta(json, path);
  validate(config);
  return config;
}

TrainedModel load_run(const RunPaths& paths) {
  const TrainConfig config = resume_config(paths.root, {});
  const Checkpoint checkpoint = load_latest_model(paths.root);
  TrainedModel trained{.model = MiniMindLM(config.model),
                       .tokenizer = Tokenizer::load(paths.root),
                       .precision = config.precision,
                       .seq_len = config.seq_len};
  load_parameters(trained.model, checkpoint.model, paths.root.string());
  return trained;
}

}  // namespace

TrainedModel load_trained_model(const std::filesystem::path& folder) {
  const std::filesystem::path hugging_face_config = folder / "config.json";
  if (!std::filesystem::exists(hugging_face_config)) return load_run(find_run(folder));
  TrainedModel trained{.model = MiniMindLM(config_from_hugging_face(hugging_face_config)),
                       .tokenizer = Tokenizer::load(folder),
                       .precision = "32-true"};
  initialize_from(trained.model, folder);
  return trained;
}

void initialize_from(MiniMindLM& model, const std::filesystem::path& file_or_folder) {
  std::error_code error;
  if (std::filesystem::exists(RunPaths{file_or_folder}.checkpoints(), error))
    return load_parameters(model, load_latest_model(file_or_folder).model, file_or_folder.string());
  const std::filesystem::path file = std::filesystem::is_directory(file_or_folder)
                                         ? file_or_folder / "model.safetensors"
                                         : file_or_folder;
  load_parameters(model, open_safetensors(file), file.string());
}

TokenizerInterface tokenizer_interface(const Tokenizer& tokenizer, SpecialTokenParsing parsing) {
  const SpecialTokens special = tokenizer.special_tokens();
  return {.encode = [tokenizer,
                     parsing](std::string_view text) { return tokenizer.encode(text, parsing); },
          .count_special_tokens =
              [tokenizer](std::string_view text) { return tokenizer.count_special_tokens(text); },
          .reads_special_tokens = parsing == SpecialTokenParsing::kTokens,
          .vocab_size = tokenizer.vocab_size(),
          .bos_id = static_cast<std::int32_t>(special.bos),
          .eos_id = static_cast<std::int32_t>(special.eos),
          .pad_id = static_cast<std::int32_t>(special.pad),
          .identity = tokenizer.json()};
}

std::vector<std::int64_t> token_bytes(const Tokenizer& tokenizer, std::int64_t vocab_size) {
  std::vector<std::int64_t> bytes(static_cast<std::size_t>(vocab_size), 0);
  for (std::int32_t id = 0; id < vocab_size; ++id) {
    const std::array<std::int32_t, 1> ids = {id};
    bytes[static_cast<std::size_t>(id)] =
        static_cast<std::int64_t>(tokenizer.decode_bytes(ids, /*skip_special_tokens=*/true).size());
  }
  return bytes;
}

}  // namespace halftone
