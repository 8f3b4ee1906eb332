// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "halftone/optim/adamw_layout.h"
#include "halftone/plan/memory_plan.h"

namespace halftone {

/// What an AdamW's buffers take beyond their sizes: they lie on pages of 2 MiB. `room`: elements of
/// each buffer's states.
std::uint64_t unused_ends(const std::vector<AdamWBufferLayout>& layout,
                          const std::vector<std::int64_t>& room, const AdamWOptions& options);

/// Of freed blocks that wait for the next (system/block_pool.h), where tensors take `bytes`.
double waiting_bytes(double bytes);

}  // namespace halftone
