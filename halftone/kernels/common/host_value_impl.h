// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/types.h>

namespace halftone {

/// The number in a tensor of one element; waits for its device. 1 for a tensor without data (meta),
/// whose computation is followed for its memory alone.
inline double host_value(const torch::Tensor& number) {
  return number.is_meta() ? 1.0 : number.item<double>();
}

}  // namespace halftone
