// SPDX-License-Identifier: Apache-2.0
// What LibTorch does on the CPU before it chooses a kernel, for tensors without data.
#pragma once

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/stack.h>

#include <cstddef>

#include "halftone/plan/operation_note_impl.h"
#include "halftone/plan/values_without_data_impl.h"

namespace halftone {

/// Whether autocast casts arguments on the CPU, in this thread and here in the dispatcher.
bool is_autocast_here();

/// Casts the arguments on top of the stack as LibTorch's kernels under autocast do it, but that a
/// weight which is used twice is cast twice. REQUIRES note.cast.
void cast_arguments(const c10::OperatorHandle& op, const OperationNote& note,
                    torch::jit::Stack& stack);

/// LibTorch's fused attention for the CPU takes the call, as scaled_dot_product_attention(query,
/// key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa) has it.
bool takes_fused_attention(const OperationValues& call);
/// Calls it in the place of scaled_dot_product_attention(), whose arguments are on the stack.
void attend(torch::jit::Stack& stack, std::size_t arguments);

}  // namespace halftone
