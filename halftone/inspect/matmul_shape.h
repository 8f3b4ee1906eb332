// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/types.h>

#include <compare>
#include <cstdint>

namespace halftone {

/// out (m, n) = a (m, k) b (k, n), `batch` times. A convolution is one with m = images times
/// places, n = output channels and k = input channels times the filter's size, of one group.
struct MatmulShape {
  std::int64_t batch = 1;
  std::int64_t m = 0;
  std::int64_t n = 0;
  std::int64_t k = 0;
  torch::ScalarType dtype = torch::kFloat;  // of a and b
  std::int64_t filter = 0;                  // of a convolution: k / input channels; else 0

  auto operator<=>(const MatmulShape&) const = default;
};

}  // namespace halftone
