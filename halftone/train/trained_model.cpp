// SPDX-License-Identifier: Apache-2.0
#include "halftone/train/trained_model.h"

#include <fmt/format.h>

#include <array>
#include <nlohmann/json.hpp>

#include "halftone/core/error.h"
#include "halftone/core/file.h"
#include "halftone/io/safetensors.h"
#include "halftone/models/parameter_names.h"
#include "halftone/train/checkpoint.h"
#include "halftone/train/config_schema.h"
#include "halftone/train/run_directory.h"

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

template <class T>
T json_field(const Json& json, const std::filesystem::path& path, const char* name, T fallback) {
  const auto found = json.find(name);
  if (found == json.end() || found->is_null()) return fallback;
  if (!found->is_number())
    throw UserError(fmt::format("{}: '{}' is not a number", path.string(), name));
  return found->get<T>();
}

/// The Llama form in which MiniMind's second generation is exchanged.
ModelConfig config_from_hugging_face(const std::filesystem::path& path) {
  const Json json = read_json(path);
  ModelConfig config;
  config.dim = json_field(json, path, "hidden_size", config.dim);
  config.n_layers = json_field(json, path, "num_hidden_layers", config.n_layers);
  config.n_heads = json_field(json, path, "num_attention_heads", config.n_heads);
  config.n_kv_heads = json_field(json, path, "num_key_value_heads", config.n_heads);
  config.head_dim = json_field(json, path, "head_dim", config.head_dim);
  config.hidden_dim = json_field(json, path, "intermediate_size", config.hidden_dim);
  config.vocab_size = json_field(json, path, "vocab_size", config.vocab_size);
  config.max_seq_len = json_field(json, path, "max_position_embeddings", config.max_seq_len);
  config.norm_eps = json_field(json, path, "rms_norm_eps", config.norm_eps);
  config.rope_theta = json_field(json, path, "rope_theta", config.rope_theta);
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
  const std::filesystem::path file = std::filesystem::is_directory(file_or_folder)
                                         ? file_or_folder / "model.safetensors"
                                         : file_or_folder;
  load_parameters(model, load_safetensors(file), file.string());
}

TokenizerInterface tokenizer_interface(const Tokenizer& tokenizer) {
  const SpecialTokens special = tokenizer.special_tokens();
  return {.encode = [tokenizer](std::string_view text) { return tokenizer.encode(text); },
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
