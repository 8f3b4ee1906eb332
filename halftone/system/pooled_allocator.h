// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "halftone/system/block_pool.h"

namespace halftone {

/// From now on large CPU tensors of this process lie in blocks of a BlockPool, all others where
/// they lay before. There is no way back.
void pool_large_tensors();

/// Of that pool; zeros before pool_large_tensors().
BlockPool::Usage pooled_tensor_memory();

/// The most that large tensors took at once since the last call, in bytes; 0 before
/// pool_large_tensors().
std::size_t take_pooled_peak();

/// Hands back what waits in it.
void release_pooled_memory();

}  // namespace halftone
