// SPDX-License-Identifier: Apache-2.0
// The memory that AdamW works on, and the part of it that may lie in a file.
#pragma once

#include <vector>

#include "halftone/kernels/optimizer/adamw.h"
#include "halftone/kernels/optimizer/gradient_stats.h"
#include "halftone/optim/adamw_layout.h"
#include "halftone/optim/adamw_options.h"

namespace halftone {

/// Zeroed buffers for an AdamW of these layouts. Gradients are undefined if the options release
/// them. On the CPU the buffers lie on large pages. If `options.offload` names a folder, the states
/// lie in one file there; zeros_in_file() lists the errors.
std::vector<AdamWTensors> adamw_buffers(const std::vector<AdamWBufferLayout>& layouts,
                                        const AdamWOptions& options);

/// The elements of `range`. REQUIRES with 8-bit moments: it begins at a block of 256.
AdamWTensors part_of(const AdamWTensors& tensors, const Range& range);

/// adamw_(), with the same bits. States that lie in a file are taken a chunk (kOffloadChunk) at a
/// time: the next is asked for while one is worked on, whose pages are handed back then.
void adamw_in_chunks_(const AdamWTensors& tensors, const AdamWArguments& arguments);

}  // namespace halftone
