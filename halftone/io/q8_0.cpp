// SPDX-License-Identifier: Apache-2.0
#include "halftone/io/q8_0.h"

#include <ATen/Parallel.h>
#include <c10/util/Half.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "halftone/core/error.h"

namespace halftone {
namespace {

constexpr float kLargestInteger = 127.0F;
constexpr std::int64_t kBlocksPerThread = 4096;

void quantize_block(const float* values, std::uint8_t* block) {
  float largest = 0;
  for (std::int64_t i = 0; i < kQ8BlockSize; ++i) largest = std::max(largest, std::fabs(values[i]));
  const float scale = largest / kLargestInteger;
  // A scale whose inverse overflows is 0 in fp16: then the integers don't matter.
  const float inverse = scale > 0 && std::isfinite(1.0F / scale) ? 1.0F / scale : 0.0F;
  const c10::Half stored(scale);
  std::memcpy(block, &stored.x, sizeof stored.x);
  for (std::int64_t i = 0; i < kQ8BlockSize; ++i) {
    const auto integer = static_cast<std::int8_t>(std::round(values[i] * inverse));
    std::memcpy(block + sizeof stored.x + i, &integer, 1);
  }
}

void dequantize_block(const std::uint8_t* block, float* values) {
  c10::Half stored;
  std::memcpy(&stored.x, block, sizeof stored.x);
  const auto scale = static_cast<float>(stored);
  for (std::int64_t i = 0; i < kQ8BlockSize; ++i)
    values[i] = scale * static_cast<float>(static_cast<std::int8_t>(block[sizeof stored.x + i]));
}

}  // namespace

torch::Tensor quantize_q8_0(const torch::Tensor& values) {
  HALFTONE_CHECK(values.dim() > 0 && values.size(-1) % kQ8BlockSize == 0,
                 "[q8_0] expected rows of a multiple of ", kQ8BlockSize, " numbers, got ",
                 values.sizes());
  const torch::Tensor dense = values.detach().to(torch::kCPU, torch::kFloat).contiguous();
  HALFTONE_CHECK(dense.isfinite().all().item<bool>(), "[q8_0] expected finite numbers only");
  torch::Tensor blocks =
      torch::empty({dense.numel() / kQ8BlockSize, kQ8BlockBytes}, torch::dtype(torch::kByte));
  const auto* from = dense.const_data_ptr<float>();
  auto* to = blocks.mutable_data_ptr<std::uint8_t>();
  at::parallel_for(0, blocks.size(0), kBlocksPerThread, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i)
      quantize_block(from + i * kQ8BlockSize, to + i * kQ8BlockBytes);
  });
  return blocks;
}

torch::Tensor dequantize_q8_0(const torch::Tensor& blocks, at::IntArrayRef sizes) {
  torch::Tensor values = torch::empty(sizes, torch::dtype(torch::kFloat));
  HALFTONE_CHECK(blocks.scalar_type() == torch::kByte && blocks.is_contiguous() &&
                     values.numel() % kQ8BlockSize == 0 &&
                     blocks.numel() == values.numel() / kQ8BlockSize * kQ8BlockBytes,
                 "[q8_0] expected ", values.numel() / kQ8BlockSize, " dense blocks of ",
                 kQ8BlockBytes, " bytes, got ", blocks.sizes());
  const auto* from = blocks.const_data_ptr<std::uint8_t>();
  auto* to = values.mutable_data_ptr<float>();
  at::parallel_for(0, values.numel() / kQ8BlockSize, kBlocksPerThread,
                   [&](std::int64_t begin, std::int64_t end) {
                     for (std::int64_t i = begin; i < end; ++i)
                       dequantize_block(from + i * kQ8BlockBytes, to + i * kQ8BlockSize);
                   });
  return values;
}

}  // namespace halftone
