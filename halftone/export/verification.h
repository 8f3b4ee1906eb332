// SPDX-License-Identifier: Apache-2.0
// What is held against an export before it bears its name: the model and tokenizer that were read
// back from its files, beside those that were trained.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "halftone/export/export_format.h"
#include "halftone/pretrain/train_config.h"
#include "halftone/pretrain/trained_model.h"

namespace halftone {

using ExportProgress = std::function<void(const std::string& stage, double share)>;

/// How far an export may be from what was trained.
struct ExportBounds {
  double logits_error = 0;  // sum (a - b)^2 / sum a^2
  double loss_change = 0;   // nats a token, either way
};

/// The bounds for the matrices of `model` stored so; docs/formats.md says where they come from.
/// Where the adapters of `lora` were merged into them, integers that are multiplied are no longer
/// those of the training.
ExportBounds export_bounds(const ExportFormat& format, ExportDtype dtype, const ModelConfig& model,
                           const LoraConfig& lora = {});

struct TokenCheck {
  bool is_training_text = false;  // else a sample in several languages that is built in
  std::string why_not;            // the training text
  std::int64_t lines = 0;
  std::int64_t tokens = 0;
  std::string difference;  // the first text that gives other ids; empty: there is none
};

struct ExportCheck {
  TokenCheck text;
  std::string precision;   // of both models
  std::string difference;  // of the model's shape; empty: there is none
  std::int64_t positions = 0;
  double logits_error = 0;
  double same_choice = 0;  // share of the positions where both find the same token likeliest
  double loss_before = 0;  // nats a token
  double loss_after = 0;
  ExportBounds bounds;

  /// Why the export is refused; empty: it is not.
  std::string failure() const;
};

/// Compares `exported` with `trained`. The text is that of `config`'s data, up to a million lines;
/// where there is no config or its text can't be read, the sample. Both models are evaluated in the
/// format's precision.
ExportCheck verify_export(TrainedModel& trained, TrainedModel& exported,
                          const std::optional<TrainConfig>& config, const ExportFormat& format,
                          ExportDtype dtype, const ExportProgress& progress);

}  // namespace halftone
