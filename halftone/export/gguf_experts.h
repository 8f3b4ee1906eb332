// SPDX-License-Identifier: Apache-2.0
// The matrices of a layer's experts: one tensor each by Hugging Face's names, one stack (experts,
// rows, columns) of all experts by llama.cpp's.
#pragma once

#include <string_view>

#include "halftone/core/state_dict.h"
#include "halftone/models/model_config.h"

namespace halftone {

/// Puts stacks in the places of the experts' matrices of `state`, which are in memory. Nothing
/// happens to a model without experts.
void stack_experts(StateDict& state, const ModelConfig& config);

/// The inverse. Stacks may be lazy: each is read once for all of its experts. Throws UserError that
/// names a stack of another shape; one that is missing is left to whoever loads the parameters.
void unstack_experts(StateDict& state, const ModelConfig& config);

/// Whether `name`, of a GGUF file, is a router's matrix, which llama.cpp keeps in fp32.
bool is_gguf_router(std::string_view name);

}  // namespace halftone
