// SPDX-License-Identifier: Apache-2.0
// Files of different families name the same tensors differently; inside, V2's names rule.
#pragma once

#include <torch/types.h>

#include <string>

#include "halftone/core/state_dict.h"
#include "halftone/models/causal_lm.h"
#include "halftone/models/model_config.h"

namespace halftone {

/// `tensors` of a file under this library's names: V2's own ("layers.0.attention.wq.weight") as
/// they are, Hugging Face's ("model.layers.0.self_attn.q_proj.weight") renamed, with the rows of
/// wq and wk, of their adapters and norms, reordered from half rotation to adjacent pairs. Where
/// config.tie_embeddings, either or both of `tok_embeddings.weight` and `output.weight` may be
/// there; the result holds the first. Names that no generation knows stay as they are, and what is
/// lazy stays lazy. Throws UserError when the two tied tensors differ.
StateDict to_v2_names(const StateDict& file, const ModelConfig& config);

/// The inverse: `parameters` by the names, and with the order of rows, that Hugging Face's classes
/// have. A matrix that embedding and head share stands there once, as the embedding.
StateDict to_hugging_face_names(const StateDict& parameters, const ModelConfig& config);

/// Throws UserError unless the file's tensors are those of a model of `config` with the adapters of
/// `lora`, by name and shape. Builds no model: a configuration that asks for too much memory is
/// found to be wrong before.
void check_parameters(const StateDict& file, const ModelConfig& config, const std::string& source,
                      const LoraConfig& lora = {});

/// Copies a file's tensors into the model's parameters (any generation's names; dtypes are
/// converted), one at a time where they are lazy. Throws UserError naming the tensors that are
/// missing, unexpected or of another shape; the model is unchanged then. `source` stands in the
/// message.
void load_parameters(CausalLM& model, const StateDict& file, const std::string& source);

/// The parameters by name, for saving: shares their storage; each tensor once.
StateDict parameters_of(const CausalLM& model);

}  // namespace halftone
