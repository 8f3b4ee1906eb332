// SPDX-License-Identifier: Apache-2.0
// A small random model with a tokenizer, as a folder that can be exported.
#pragma once

#include <torch/utils.h>

#include <string>

#include "halftone/export/export_model.h"
#include "halftone/io/safetensors.h"
#include "halftone/models/causal_lm.h"
#include "halftone/models/parameter_names.h"
#include "halftone/pretrain/hugging_face_config.h"
#include "halftone/tokenizer/bpe_trainer.h"
#include "support/temp_folder.h"

namespace halftone::test {

inline const char* const kExportText =
    "spring sleep, not aware of dawn; everywhere birds are singing\n春眠不覺曉，處處聞啼鳥。\n";

inline Tokenizer export_tokenizer(const std::string& text = kExportText) {
  BpeTrainer trainer({.vocab_size = 300});
  trainer.add_text(text);
  return trainer.train();
}

inline ModelConfig export_shape(const std::string& generation, bool moe = false) {
  return {.generation = generation,
          .dim = 64,
          .n_layers = 2,
          .n_heads = 4,
          .n_kv_heads = 2,
          .hidden_dim = 96,
          .vocab_size = 320,
          .max_seq_len = 128,
          .rope_theta = 1e4,
          .use_moe = moe,
          .n_shared_experts = generation == "v2" ? 1 : 0};
}

/// A Hugging Face folder at `folder` of a random model with weights of the size that training
/// leaves.
inline void save_random_model(const std::filesystem::path& folder, const ModelConfig& shape) {
  torch::manual_seed(3);
  const CausalLM model(shape);
  const Tokenizer tokenizer = export_tokenizer();
  const ExportSource source{
      .model = shape, .parameters = parameters_of(model), .tokenizer = tokenizer};
  std::filesystem::create_directories(folder);
  export_format("safetensors").write(source, ExportDtype::kF32, folder);
}

}  // namespace halftone::test
