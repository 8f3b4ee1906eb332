// SPDX-License-Identifier: Apache-2.0
// ggml's Q8_0: each 32 numbers of a row are an fp16 scale d and 32 signed bytes q, 34 bytes
// together; a number is d q. The scale is max|x| / 127.
#pragma once

#include <torch/types.h>

#include <cstdint>

namespace halftone {

inline constexpr std::int64_t kQ8BlockSize = 32;   // numbers
inline constexpr std::int64_t kQ8BlockBytes = 34;  // their bytes in a file

/// `values` (..., n) in any floating-point dtype as blocks, uint8 (numel / 32, 34), bit for bit as
/// ggml's own code makes them: q is x / (max|x| / 127) in fp32, halves rounded away from zero.
/// Throws c10::Error unless n is a multiple of 32 and every number is finite.
torch::Tensor quantize_q8_0(const torch::Tensor& values);

/// The numbers of `blocks`, uint8 of numel(sizes) / 32 blocks of 34 bytes, in fp32 with `sizes`.
torch::Tensor dequantize_q8_0(const torch::Tensor& blocks, at::IntArrayRef sizes);

}  // namespace halftone
