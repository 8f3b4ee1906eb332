// SPDX-License-Identifier: Apache-2.0
// A folder as the library transformers saves one.
#include <fmt/format.h>

#include <map>
#include <string>

#include "halftone/core/error.h"
#include "halftone/export/formats_impl.h"
#include "halftone/io/safetensors.h"
#include "halftone/models/parameter_names.h"
#include "halftone/pretrain/hugging_face_config.h"
#include "halftone/system/atomic_file.h"
#include "halftone/tokenizer/tokenizer_json.h"

namespace halftone {
namespace {

using nlohmann::ordered_json;

std::string dtype_of_transformers(ExportDtype dtype) {
  switch (dtype) {
    case ExportDtype::kF16:
      return "float16";
    case ExportDtype::kBF16:
      return "bfloat16";
    default:
      return "float32";
  }
}

void set_ids(ordered_json& document, const Tokenizer& tokenizer) {
  const SpecialTokens special = tokenizer.special_tokens();
  document["bos_token_id"] = special.bos;
  document["eos_token_id"] = special.eos;
  document["pad_token_id"] = special.pad;
}

std::string spelling_at(const Tokenizer& tokenizer, std::int64_t id) {
  return tokenizer.id_to_token(static_cast<std::int32_t>(id)).value_or("");
}

ordered_json special_tokens_map(const Tokenizer& tokenizer) {
  const SpecialTokens special = tokenizer.special_tokens();
  ordered_json map{{"bos_token", spelling_at(tokenizer, special.bos)},
                   {"eos_token", spelling_at(tokenizer, special.eos)},
                   {"pad_token", spelling_at(tokenizer, special.pad)}};
  const TokenizerConfig config =
      parse_tokenizer_config(tokenizer.config_json(), "tokenizer_config.json");
  if (config.unk_token) map["unk_token"] = *config.unk_token;
  return map;
}

class HuggingFaceFormat : public ExportFormat {
 public:
  std::string_view name() const override { return "hf"; }
  std::vector<ExportDtype> dtypes() const override {
    return {ExportDtype::kF32, ExportDtype::kF16, ExportDtype::kBF16};
  }

  void check(const ExportSource& source, ExportDtype /*dtype*/) const override {
    hugging_face_form(source.model);
    source.tokenizer.special_tokens();
  }

  void write(const ExportSource& source, ExportDtype dtype,
             const std::filesystem::path& folder) const override {
    std::map<std::string, torch::Tensor> tensors;
    for (const auto& [name, tensor] :
         to_hugging_face_names(source.parameters, source.model).tensors)
      tensors[name] = tensor.to(scalar_type_of(dtype)).contiguous();
    save_safetensors(folder / "model.safetensors", tensors, {{"format", "pt"}});
    write_json(folder / "config.json", config_for(source, hugging_face_form(source.model), dtype));
    write_tokenizer_files(source.tokenizer, folder);
  }

  TrainedModel read(const std::filesystem::path& folder) const override {
    return load_trained_model(folder);
  }
};

}  // namespace

const FileForm& hugging_face_form(const ModelConfig& model) {
  if (const FileForm* const form = export_form(model); form != nullptr) return *form;
  throw UserError(
      fmt::format("{} with experts: transformers has no class that computes it; export it with "
                  "--format safetensors",
                  family_of(model).title));
}

ordered_json config_for(const ExportSource& source, const FileForm& form, ExportDtype dtype) {
  ordered_json config = ordered_json::parse(hugging_face_config(source.model, form));
  set_ids(config, source.tokenizer);
  config["torch_dtype"] = dtype_of_transformers(dtype);
  return config;
}

void write_json(const std::filesystem::path& path, const ordered_json& document) {
  write_file_atomically(path, document.dump(2) + "\n");
}

void write_tokenizer_files(const Tokenizer& tokenizer, const std::filesystem::path& folder) {
  tokenizer.save(folder);
  write_json(folder / "special_tokens_map.json", special_tokens_map(tokenizer));
  ordered_json generation;
  set_ids(generation, tokenizer);
  write_json(folder / "generation_config.json", generation);
}

const ExportFormat& hugging_face_format() {
  static const HuggingFaceFormat format;
  return format;
}

}  // namespace halftone
