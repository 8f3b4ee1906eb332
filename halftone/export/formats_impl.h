// SPDX-License-Identifier: Apache-2.0
// The formats, and what several of them share. Private to this folder.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "halftone/export/export_format.h"
#include "halftone/models/model_family.h"

namespace halftone {

const ExportFormat& safetensors_format();
const ExportFormat& hugging_face_format();
const ExportFormat& gguf_format();
const ExportFormat& w8a8_format();
const ExportFormat& peft_format();

/// Writes tokenizer.json, tokenizer_config.json, special_tokens_map.json and
/// generation_config.json.
void write_tokenizer_files(const Tokenizer& tokenizer, const std::filesystem::path& folder);

/// The keys of a config.json for `form` that other libraries read beside those of the model.
nlohmann::ordered_json config_for(const ExportSource& source, const FileForm& form,
                                  ExportDtype dtype);

void write_json(const std::filesystem::path& path, const nlohmann::ordered_json& document);

/// The form in which Hugging Face's library computes the model. Throws UserError when it has no
/// class for it.
const FileForm& hugging_face_form(const ModelConfig& model);

}  // namespace halftone
