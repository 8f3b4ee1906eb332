// SPDX-License-Identifier: Apache-2.0
// What `halftone generate` does with a model that is ready: one text, texts of a file, a
// conversation.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "halftone/models/generate.h"
#include "halftone/pretrain/inference_precision.h"
#include "halftone/pretrain/trained_model.h"

namespace halftone::cli {

struct GenerateArguments {
  std::string run;
  std::optional<std::string> prompt;
  std::string prompts;  // file
  std::string system;
  bool chat = false;
  bool json = false;
  std::optional<std::int64_t> batch_size;
  std::optional<std::int64_t> seed;
  std::optional<std::string> weights;
  SamplingOptions sampling;
};

/// A model and how its prompts are read.
struct Writer {
  TrainedModel& trained;
  const InferenceModel& inference;
  SpecialTokenParsing parsing;
};

/// Each prints to stdout; throws Exit after Ctrl-C.
void write_one(const Writer& writer, const GenerateArguments& arguments);
void write_all(const Writer& writer, const GenerateArguments& arguments);
void converse(const Writer& writer, const GenerateArguments& arguments);

}  // namespace halftone::cli
