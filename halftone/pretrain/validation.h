// SPDX-License-Identifier: Apache-2.0
// The text that a training is validated on: of its own (val_data), or documents that are held out
// of the training's (val_split).
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "halftone/data/corpus.h"
#include "halftone/data/token_loader.h"
#include "halftone/pretrain/language_modeling.h"
#include "halftone/pretrain/pretrain_inputs.h"
#include "halftone/pretrain/train_config.h"
#include "halftone/train/callback.h"
#include "halftone/train/trainer_options.h"

namespace halftone {

/// The text of `val_data`, if there is any. Throws UserError, before anything takes long, for what
/// can't be read.
std::optional<Corpus> open_validation_text(const TrainConfig& config);

/// The text that a run of this configuration is validated on. REQUIRES has_validation(). Throws
/// UserError as open_validation_text().
Corpus validation_text(const TrainConfig& config);

/// What a run is validated on, row by row in their order.
struct ValidationData {
  TokenizedData data;
  TokenLoader loader;
};
/// Of `own_text`, or of what is held out of the text of `inputs`; nothing where there is neither.
/// Throws UserError for text that can't be encoded, and warns of text that is trained on, too.
std::optional<ValidationData> make_validation_data(const TrainConfig& config,
                                                   const PretrainInputs& inputs,
                                                   std::optional<Corpus> own_text,
                                                   const PreparationProgress& progress = {});

/// Optimizer steps from one validation to the next; nothing: only the last step has one.
std::optional<std::int64_t> validation_interval(const TrainConfig& config);

/// When a Trainer validates: so often, and after the last step.
void set_validation_times(TrainerOptions& options, const TrainConfig& config);

/// Warns of a validation whose loss is not finite, and names the tensor that went wrong first.
/// Keeps a run that is resumed on the text that it was validated on.
class ValidationRecord : public Callback {
 public:
  /// Both must outlive it.
  ValidationRecord(LanguageModeling& module, const ValidationData& validation);

  void on_validation_end(Trainer& trainer, const std::map<std::string, double>& values) override;

  std::string state_key() const override { return "validation"; }
  StateDict state_dict() const override;
  /// Throws UserError for other text.
  void load_state_dict(const StateDict& state) override;

 private:
  LanguageModeling& module_;
  std::string text_;  // identifies it
};

}  // namespace halftone
