// SPDX-License-Identifier: Apache-2.0
// What programs leave around the names of a model's weights, and beside them.
#pragma once

#include <string>

#include "halftone/core/state_dict.h"

namespace halftone {

/// The tensors of a file without the names of wrappers around the model or parts of it (`module.`
/// of data parallelism,
/// `_orig_mod.` of torch.compile, `base_model.model.` of PEFT, one within the other too), and
/// without the buffers that older exporters stored and every program computes
/// (`rotary_emb.inv_freq`, `freqs_cos`, `freqs_sin`, `pos_cis`, `mask`, `attn.bias`,
/// `attn.masked_bias`). What is lazy stays lazy. Throws UserError, which begins with `source`, when
/// two tensors get one name, and for the scales of fp8 weights: without them the weights mean other
/// numbers.
StateDict without_wrappers(const StateDict& file, const std::string& source);

}  // namespace halftone
