// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/types.h>

#include <cstdint>

namespace halftone {

/// Which of the first `longest` elements of each sequence are before its end: bool (B, longest), of
/// `lengths` (B) int64. A length may be 0 or less (none are), or more than `longest` (all are).
/// Throws c10::Error for lengths of another shape or dtype.
torch::Tensor sequence_mask(const torch::Tensor& lengths, std::int64_t longest);

}  // namespace halftone
