// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <string>

#include "halftone/models/model_config.h"
#include "halftone/models/model_family.h"

namespace halftone {

/// Reads a config.json of any form that a family of models/model_family.h has. Every key that
/// changes what is computed is understood or refused by name. A file that says nothing of it has
/// one matrix for embedding and head where `ties_by_default`. Throws UserError.
ModelConfig read_hugging_face_config(const std::filesystem::path& path,
                                     bool ties_by_default = true);

/// Whether the file says that linear layers multiply int8 by int8: compressed-tensors'
/// "int-quantized" with weights by channel and inputs by token, the one quantization that
/// read_hugging_face_config() takes. Throws UserError for a file that is no JSON.
bool has_int8_products(const std::filesystem::path& path);

/// The keys of `form` for `model`, as JSON: what config.json must hold for another library to
/// compute the same.
std::string hugging_face_config(const ModelConfig& model, const FileForm& form);

}  // namespace halftone
