// SPDX-License-Identifier: Apache-2.0
// The memory that AdamW works on, and the part of it that may lie in a file.
#pragma once

#include <filesystem>
#include <vector>

#include "halftone/kernels/optimizer/adamw.h"
#include "halftone/kernels/optimizer/gradient_stats.h"
#include "halftone/optim/adamw_layout.h"
#include "halftone/optim/arena_shards.h"
#include "halftone/optim/parameter_arena.h"

namespace halftone {

/// Neighbours in a buffer that are updated here.
struct AdamWPart {
  std::size_t buffer = 0;
  Range range;           // of the buffer's elements
  AdamWTensors tensors;  // of that range; gradients undefined when they are released
};

/// What `shards` says that this process updates of an arena of these layouts, buffer by buffer,
/// with zeroed states. On the CPU these lie on large pages, or, if `offload` names a folder, in one
/// file there; zeros_in_file() lists the errors.
std::vector<AdamWPart> adamw_parts(const ParameterArena& arena, const ArenaShards& shards,
                                   std::vector<AdamWBufferLayout> layouts,
                                   const std::filesystem::path& offload);

/// The elements of `range`. REQUIRES with 8-bit moments: it begins at a block of 256.
AdamWTensors part_of(const AdamWTensors& tensors, const Range& range);

/// The elements of `range`, of the buffer's, which lie in the part.
AdamWPart part_of(const AdamWPart& part, const Range& range);

/// adamw_(), with the same bits. States that lie in a file are taken a chunk (kOffloadChunk) at a
/// time: the next is asked for while one is worked on, whose pages are handed back then.
void adamw_in_chunks_(const AdamWTensors& tensors, const AdamWArguments& arguments);

}  // namespace halftone
