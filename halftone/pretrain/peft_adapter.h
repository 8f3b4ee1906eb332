// SPDX-License-Identifier: Apache-2.0
// LoRA adapters in files: as the library PEFT saves them, and as MiniMind does.
#pragma once

#include <filesystem>
#include <string>

#include "halftone/core/state_dict.h"
#include "halftone/models/causal_lm.h"
#include "halftone/models/lora.h"
#include "halftone/models/model_config.h"

namespace halftone {

/// An adapter without the model that it stands beside.
struct Adapter {
  LoraConfig lora;
  StateDict parameters;  // by this library's names; lazy
  std::string source;    // the file of the tensors, for messages
};

/// Whether PEFT saved the folder.
bool is_peft_folder(const std::filesystem::path& folder);

/// Opens an adapter of `model`: a folder with adapter_config.json and adapter_model.safetensors (or
/// .bin) as PEFT saves them, or a file of tensors that MiniMind's trainer saved, whose factor is 1.
/// Which layers it is for, its tensors say. The files are taken as hostile. Throws UserError for a
/// file that is missing or damaged, for an option that changes the computation (use_dora, bias,
/// rank_pattern and others), which it names, and for tensors that do not fit `model`. Where
/// use_rslora divides by the root of the rank, alpha is made larger instead.
Adapter read_adapter(const std::filesystem::path& path, const ModelConfig& model);

/// Copies it into the adapters of `model`. Throws UserError where rank, alpha or layers are others.
void load_adapter(CausalLM& model, const Adapter& adapter);

/// What PEFT's PeftModel.from_pretrained() reads: adapter_config.json and adapter_model.safetensors
/// of the adapters in `parameters`, in the dtype of its tensors. Each is on the disk afterwards.
void write_peft_adapter(const std::filesystem::path& folder, const StateDict& parameters,
                        const LoraConfig& lora, const ModelConfig& model);

}  // namespace halftone
