// SPDX-License-Identifier: Apache-2.0
// A model as llama.cpp knows it: its architecture's keys of the metadata and its names of tensors.
#pragma once

#include <string>

#include "halftone/core/state_dict.h"
#include "halftone/io/gguf.h"
#include "halftone/models/model_config.h"

namespace halftone {

/// The architecture under which llama.cpp computes exactly a model of `config`: "llama", "qwen2",
/// "qwen3" or, with experts, "qwen3moe". Throws UserError, which names what stands in the way,
/// where there is none.
std::string gguf_architecture(const ModelConfig& config);

/// Adds general.architecture and the architecture's keys.
void set_model_metadata(GgufMetadata& metadata, const ModelConfig& config);

/// The model that the metadata describe; `has_head` tells whether the file has an output matrix.
/// Throws UserError that names the key: missing, out of range, or one that changes the computation
/// and is not supported.
ModelConfig model_of_gguf(const GgufMetadata& metadata, bool has_head);

/// `parameters` (this library's names) by llama.cpp's names, and with the order of rows that the
/// architecture rotates: "llama" turns adjacent pairs, as this library does, "qwen2", "qwen3"
/// and "qwen3moe" turn halves. The matrices of a layer's experts become one stack.
StateDict to_gguf_names(const StateDict& parameters, const ModelConfig& config);

/// The inverse, in names that load_parameters() reads. Names that are unknown stay as they are.
/// Throws UserError for a stack of other experts than `config` says.
StateDict from_gguf_names(const StateDict& file, const ModelConfig& config);

}  // namespace halftone
