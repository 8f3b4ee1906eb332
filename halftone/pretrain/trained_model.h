// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "halftone/data/token_cache.h"
#include "halftone/models/minimind.h"
#include "halftone/models/model_config.h"
#include "halftone/tokenizer/tokenizer.h"

namespace halftone {

/// A model with the tokenizer it was trained on, on the CPU, in fp32 unless the file says
/// otherwise.
struct TrainedModel {
  MiniMindLM model = nullptr;
  Tokenizer tokenizer;
  std::string precision;     // the recipe of its run; "32-true" when it comes from elsewhere
  std::int64_t seq_len = 0;  // of its training; 0 when unknown
};

/// Opens a run directory (its newest whole checkpoint) or a Hugging Face folder with config.json,
/// model.safetensors and tokenizer.json of a MiniMind model. Throws UserError.
TrainedModel load_trained_model(const std::filesystem::path& folder);

/// Copies the weights of a safetensors file, or of a Hugging Face folder's model.safetensors, into
/// `model`. Throws UserError.
void initialize_from(MiniMindLM& model, const std::filesystem::path& file_or_folder);

/// What the data layer needs of a tokenizer, which reads special tokens in a text by `parsing`.
TokenizerInterface tokenizer_interface(const Tokenizer& tokenizer,
                                       SpecialTokenParsing parsing = SpecialTokenParsing::kText);

/// For each id the bytes of text it stands for; 0 for special tokens.
std::vector<std::int64_t> token_bytes(const Tokenizer& tokenizer, std::int64_t vocab_size);

}  // namespace halftone
