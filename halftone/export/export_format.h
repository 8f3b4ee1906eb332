// SPDX-License-Identifier: Apache-2.0
// A form in which a trained model leaves: how it is written, and how it is read back. A new one is
// a file beside this and a line in export_formats().
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "halftone/core/state_dict.h"
#include "halftone/models/lora.h"
#include "halftone/models/model_config.h"
#include "halftone/pretrain/trained_model.h"
#include "halftone/tokenizer/tokenizer.h"

namespace halftone {

/// How matrices are stored.
enum class ExportDtype { kF32, kF16, kBF16, kInt8 };

/// "f32", "f16", "bf16", "int8".
std::string_view name_of(ExportDtype dtype);
/// Throws UserError when there is none of that name.
ExportDtype parse_export_dtype(std::string_view name);
/// The dtype of LibTorch. REQUIRES one that is not int8.
torch::ScalarType scalar_type_of(ExportDtype dtype);

/// What is written: fp32 on the CPU, in this library's names.
struct ExportSource {
  ModelConfig model;
  StateDict parameters;  // of the model alone: adapters are merged into them
  Tokenizer tokenizer;
  LoraConfig lora = {};     // of rank 0: there are no adapters
  StateDict unmerged = {};  // else: the parameters beside the adapters, and these
};

class ExportFormat {
 public:
  virtual ~ExportFormat() = default;

  virtual std::string_view name() const = 0;
  /// The first is what is taken unless another is asked for.
  virtual std::vector<ExportDtype> dtypes() const = 0;
  /// Throws UserError that names the reason where the format can't hold the model or the tokenizer
  /// such that others compute the same. Before anything is written.
  virtual void check(const ExportSource& source, ExportDtype dtype) const = 0;
  /// Writes the files into `folder`, which is there. Each is on the disk afterwards.
  virtual void write(const ExportSource& source, ExportDtype dtype,
                     const std::filesystem::path& folder) const = 0;
  /// Reads what write() wrote, from the files alone.
  virtual TrainedModel read(const std::filesystem::path& folder) const = 0;
  /// The same for files that are only a part of a model, beside the rest of it.
  virtual TrainedModel read_beside(const ExportSource& /*source*/,
                                   const std::filesystem::path& folder) const {
    return read(folder);
  }
  /// The precision in which the format is meant to be computed: "32-true" unless its integers are
  /// multiplied as they are.
  virtual std::string precision() const { return "32-true"; }
  /// Whether those who read it bring text into the form that the tokenizer asks for
  /// (Tokenizer::normalized). Else its ids are those of text that is in that form.
  virtual bool normalizes_text() const { return true; }
};

/// All formats: safetensors, hf, gguf, w8a8, peft.
const std::vector<const ExportFormat*>& export_formats();

/// Throws UserError that names the nearest one when there is none called `name`.
const ExportFormat& export_format(std::string_view name);

}  // namespace halftone
