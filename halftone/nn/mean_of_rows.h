// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/types.h>

namespace halftone {

/// The mean (B, D) of the rows of each of x (B, T, D) that `lengths` (B) int64, each in 1..T,
/// counts: those behind are padding (finite numbers). Undefined: all count.
torch::Tensor mean_of_rows(const torch::Tensor& x, const torch::Tensor& lengths = {});

}  // namespace halftone
