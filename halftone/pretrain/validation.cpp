// SPDX-License-Identifier: Apache-2.0
#include "halftone/pretrain/validation.h"

#include <fmt/format.h>

#include <limits>
#include <utility>

#include "halftone/core/error.h"
#include "halftone/core/log.h"
#include "halftone/nn/evaluation_mode.h"
#include "halftone/pretrain/non_finite_report.h"
#include "halftone/train/trainer.h"

namespace halftone {
namespace {

constexpr const char* kValidatedText = "text";

}  // namespace

std::optional<Corpus> open_validation_text(const TrainConfig& config) {
  if (config.val_data.empty()) return std::nullopt;
  TrainConfig other = config;
  other.data = config.val_data;
  Corpus corpus = open_corpus(other);
  Document document;
  corpus.next(document);
  return corpus;
}

Corpus validation_text(const TrainConfig& config) {
  if (std::optional<Corpus> own_text = open_validation_text(config)) return std::move(*own_text);
  return open_corpus(config).other_part(held_out_part(config, SamplePart::Side::kHeldOut));
}

std::optional<ValidationData> make_validation_data(const TrainConfig& config,
                                                   const PretrainInputs& inputs,
                                                   std::optional<Corpus> own_text,
                                                   const PreparationProgress& progress) {
  if (!has_validation(config)) return std::nullopt;
  if (!own_text)
    own_text = inputs.text->other_part(held_out_part(config, SamplePart::Side::kHeldOut));
  TokenizedData data = encode_corpus(*own_text, config, inputs.tokenizer, progress);
  if (data.content_hash == inputs.data.content_hash)
    log_warning(
        "val_data is the text that is trained on: val_loss says nothing of other text; name "
        "another file, or hold documents out with val_split");
  TokenLoader loader(data, row_options(config));
  return ValidationData{std::move(data), std::move(loader)};
}

std::optional<std::int64_t> validation_interval(const TrainConfig& config) {
  if (config.val_every) return config.val_every;
  return config.save_every > 0 ? std::optional(config.save_every) : std::nullopt;
}

void set_validation_times(TrainerOptions& options, const TrainConfig& config) {
  options.num_sanity_val_steps = 0;
  options.val_at_end = true;
  // No run has so many steps.
  options.val_check_interval =
      validation_interval(config).value_or(std::numeric_limits<std::int64_t>::max());
}

ValidationRecord::ValidationRecord(LanguageModeling& module, const ValidationData& validation)
    : module_(module), text_(fmt::format("{:016x}", validation.data.content_hash)) {}

void ValidationRecord::on_validation_end(Trainer& trainer,
                                         const std::map<std::string, double>& /*values*/) {
  const std::optional<LanguageModeling::BadBatch>& bad = module_.bad_batch();
  if (!bad) return;
  if (!trainer.has_all_weights()) {
    log_warning(fmt::format(
        "validation at step {}: the loss of batch {} is {}; `halftone eval` finds the cause",
        trainer.loop().counters().step, bad->index + 1, bad->loss));
    return;
  }
  const EvaluationMode mode(module_.network());
  const auto forward = [&] {
    const auto region = trainer.forward_context();
    return module_.cross_entropy(bad->batch);
  };
  log_warning(fmt::format("validation at step {}: {}", trainer.loop().counters().step,
                          non_finite_loss({bad->index, bad->loss}, module_.network(), forward)));
}

StateDict ValidationRecord::state_dict() const {
  StateDict state;
  state.values[kValidatedText] = text_;
  return state;
}

void ValidationRecord::load_state_dict(const StateDict& state) {
  if (const auto saved = state.get<std::string>(kValidatedText); saved != text_)
    throw UserError(fmt::format(
        "cannot resume: the validation data is not what the saved run was validated on (saved text "
        "{}, now {}); put it back as it was, or start a new run with init_from",
        saved, text_));
}

}  // namespace halftone
