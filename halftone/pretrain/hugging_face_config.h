// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>

#include "halftone/models/model_config.h"

namespace halftone {

struct HuggingFaceConfig {
  ModelConfig model;
  /// Whether the file says that embedding and head are two matrices. Then both must be among the
  /// weights, and equal: this library's model has one.
  bool is_untied = false;
};

/// Reads a config.json of a Llama, or of a MiniMind in Llama's names. Every key that changes what
/// is computed is understood or refused by name. Throws UserError.
HuggingFaceConfig read_hugging_face_config(const std::filesystem::path& path);

}  // namespace halftone
