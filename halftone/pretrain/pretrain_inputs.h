// SPDX-License-Identifier: Apache-2.0
// Builds the objects that a configuration describes. Every command that trains from one shares
// them.
#pragma once

#include <torch/types.h>

#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "halftone/data/corpus.h"
#include "halftone/data/token_cache.h"
#include "halftone/data/token_loader.h"
#include "halftone/pretrain/language_modeling.h"
#include "halftone/pretrain/train_config.h"
#include "halftone/tokenizer/tokenizer.h"
#include "halftone/train/trainer.h"

namespace halftone {

/// The checked inputs of a run.
struct PretrainInputs {
  Tokenizer tokenizer;
  TokenizedData data;
  ModelConfig model;
  torch::Device device;
  std::shared_ptr<const Corpus> text = nullptr;  // that `data` was made from
};

using PreparationProgress = std::function<void(const std::string& stage, double share)>;

/// Reads the data, trains a tokenizer on it unless one is given or named, and encodes the text.
/// Throws UserError for whatever is wrong with the configuration or the data, and for a run that
/// will not fit into config.memory_budget: before the text is read where that can be known.
PretrainInputs prepare_pretraining(const TrainConfig& config, std::optional<Tokenizer> tokenizer,
                                   const PreparationProgress& progress = {});

/// A part of the text that `config.data` names, as `config.val_split` divides it.
SamplePart held_out_part(const TrainConfig& config, SamplePart::Side side);

/// The text that is trained on: what `config.data` names, without what is held out of it.
Corpus open_corpus(const TrainConfig& config);
/// The same where samples of another kind than the task's are wanted; nothing: of any one kind.
Corpus open_corpus(const TrainConfig& config, std::optional<SampleKind> wanted);

/// Rows of `data` as the configuration has them, in their order unless it is said to shuffle them.
TokenLoaderOptions row_options(const TrainConfig& config);

/// The ids of `corpus`; notes how many special tokens the text spells and how they were read.
TokenizedData encode_corpus(Corpus& corpus, const TrainConfig& config, const Tokenizer& tokenizer,
                            const PreparationProgress& progress = {});

/// What the key special_tokens says.
SpecialTokenParsing special_token_parsing(const TrainConfig& config);

/// Where a run of task dpo keeps the weights that it started from.
std::filesystem::path reference_weights(const std::filesystem::path& run);

/// A fresh model from the configuration's seed, or that of `init_from`, with its recipe.
LanguageModeling make_module(const TrainConfig& config, const PretrainInputs& inputs);
TokenLoader make_loader(const TrainConfig& config, const PretrainInputs& inputs);
/// Limits, precision, clipping and scaler; nothing that writes.
TrainerOptions trainer_options_for(const TrainConfig& config);

}  // namespace halftone
