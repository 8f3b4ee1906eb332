// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "halftone/core/state_dict.h"
#include "halftone/data/token_cache.h"
#include "halftone/models/causal_lm.h"
#include "halftone/models/model_config.h"
#include "halftone/tokenizer/tokenizer.h"

namespace halftone {

/// A model with the tokenizer it was trained on, on the CPU, in fp32 unless the file says
/// otherwise. Adapters of its training are beside its weights, and active.
struct TrainedModel {
  CausalLM model = nullptr;
  Tokenizer tokenizer;
  std::string precision;  // the recipe of its run; "32-true" when it comes from elsewhere
  // What its training kept out of that recipe: the keys of its configuration.
  std::vector<std::string> keep_fp32;
  std::vector<std::string> layer_precision;
  std::int64_t seq_len = 0;  // of its training; 0 when unknown
  // How its training read text: the keys of its configuration.
  bool pack = true;
  bool document_mask = false;
  std::string invalid_utf8 = "error";
  std::string special_tokens = "text";
};

/// Opens what find_run_weights() takes (a run directory, its best checkpoint, any of its
/// checkpoints) or a Hugging Face folder with config.json, weights (in one file or in shards, see
/// io/weights.h) and tokenizer.json of a MiniMind model. Throws UserError.
TrainedModel load_trained_model(const std::filesystem::path& folder);

/// The weights that a model starts from: those of a file or a Hugging Face folder (safetensors or
/// .pth, see io/weights.h; wrappers' names are left out), or of what find_run_weights() takes, with
/// its adapters merged into them. Opened, read as they are copied.
class InitialWeights {
 public:
  /// Throws UserError.
  explicit InitialWeights(const std::filesystem::path& file_or_folder);

  /// Throws UserError unless they are the weights of a model of `config`: by name and shape, and by
  /// what the folder says of the model. Builds no model.
  void check(const ModelConfig& config) const;
  /// Throws UserError as check().
  void copy_to(CausalLM& model) const;

 private:
  StateDict state_;
  std::string source_;
  std::optional<ModelConfig> made_for_;  // what shapes do not tell
};

/// Copies InitialWeights of a file or folder into `model`. Throws UserError.
void initialize_from(CausalLM& model, const std::filesystem::path& file_or_folder);

/// What the data layer needs of a tokenizer, which reads special tokens in a text by `parsing`.
TokenizerInterface tokenizer_interface(const Tokenizer& tokenizer,
                                       SpecialTokenParsing parsing = SpecialTokenParsing::kText);

/// For each id the bytes of text it stands for; 0 for special tokens.
std::vector<std::int64_t> token_bytes(const Tokenizer& tokenizer, std::int64_t vocab_size);

}  // namespace halftone
