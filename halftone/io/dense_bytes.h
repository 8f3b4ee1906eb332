// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/types.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <vector>

namespace halftone {

/// The bytes of a dense tensor of these sizes, none of them negative; nothing where the bytes or
/// LibTorch's strides do not fit 63 bits.
inline std::optional<std::uint64_t> dense_bytes(const std::vector<std::int64_t>& sizes,
                                                torch::ScalarType dtype) {
  std::int64_t elements = 1;
  std::int64_t stride = 1;  // LibTorch leaves zeros out of it: it must not overflow either
  std::int64_t bytes = 0;
  bool overflow = false;
  for (const std::int64_t size : sizes) {
    overflow |= __builtin_mul_overflow(elements, size, &elements);
    overflow |= __builtin_mul_overflow(stride, std::max<std::int64_t>(size, 1), &stride);
  }
  const auto item = static_cast<std::int64_t>(c10::elementSize(dtype));
  overflow |= __builtin_mul_overflow(elements, item, &bytes);
  if (overflow) return std::nullopt;
  return static_cast<std::uint64_t>(bytes);
}

}  // namespace halftone
