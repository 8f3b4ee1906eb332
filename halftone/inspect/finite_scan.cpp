// SPDX-License-Identifier: Apache-2.0
#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "halftone/inspect/finite_scan_impl.h"
#include "halftone/inspect/parameter_memory_impl.h"

namespace halftone {
namespace {

/// Bits of a number: those of the exponent, and the lowest of these. Where the exponent is all
/// ones, as in inf and nan, adding the latter carries into the sign.
template <typename Bits>
struct ExponentBits {
  Bits all;
  Bits lowest;
};

constexpr std::int64_t kBlock = 1024;

template <typename Bits>
Bits carries(const Bits* numbers, std::int64_t count, ExponentBits<Bits> exponent) {
  Bits found = 0;
  for (std::int64_t i = 0; i < count; ++i)
    found = static_cast<Bits>(found | ((numbers[i] & exponent.all) + exponent.lowest));
  return found;
}

template <typename Bits>
bool any_non_finite(const void* data, std::int64_t count, ExponentBits<Bits> exponent) {
  const Bits* const numbers = static_cast<const Bits*>(data);
  constexpr Bits kSign = static_cast<Bits>(Bits{1} << (8 * sizeof(Bits) - 1));
  constexpr std::int64_t kGrain = 64 * kBlock;
  std::atomic<bool> found = false;
  at::parallel_for(
      0, (count + kBlock - 1) / kBlock, kGrain / kBlock, [&](std::int64_t begin, std::int64_t end) {
        Bits carried = 0;
        for (std::int64_t block = begin; block < end; ++block) {
          const std::int64_t at = block * kBlock;
          // A fixed length, where it can be, makes the loop one of vectors.
          carried = static_cast<Bits>(
              carried | (count - at >= kBlock ? carries(numbers + at, kBlock, exponent)
                                              : carries(numbers + at, count - at, exponent)));
        }
        if ((carried & kSign) != 0) found = true;
      });
  return found;
}

bool dense_has_non_finite(const torch::Tensor& tensor) {
  const void* const data = tensor.const_data_ptr();
  const std::int64_t count = tensor.numel();
  switch (tensor.scalar_type()) {
    case torch::kHalf:
      return any_non_finite<std::uint16_t>(data, count, {0x7c00, 0x0400});
    case torch::kBFloat16:
      return any_non_finite<std::uint16_t>(data, count, {0x7f80, 0x0080});
    case torch::kFloat:
      return any_non_finite<std::uint32_t>(data, count, {0x7f800000, 0x00800000});
    case torch::kDouble:
      return any_non_finite<std::uint64_t>(data, count, {0x7ff0000000000000, 0x0010000000000000});
    default:
      return !tensor.isfinite().all().item<bool>();
  }
}

/// A sum is not finite if one of its terms is not; that of finite ones may overflow, too.
bool elsewhere_has_non_finite(const torch::Tensor& tensor) {
  const bool adds_up = tensor.element_size() > 1;  // LibTorch adds no 8-bit numbers
  if (adds_up && tensor.sum().isfinite().item<bool>()) return false;
  return !tensor.isfinite().all().item<bool>();
}

/// An expanded tensor has each number once.
torch::Tensor without_repeats(const torch::Tensor& tensor) {
  std::vector<std::int64_t> sizes = tensor.sizes().vec();
  bool repeats = false;
  for (std::size_t d = 0; d < sizes.size(); ++d) {
    if (sizes[d] <= 1 || tensor.stride(static_cast<std::int64_t>(d)) != 0) continue;
    sizes[d] = 1;
    repeats = true;
  }
  return repeats ? tensor.as_strided(sizes, tensor.strides()) : tensor;
}

/// From the first number to behind the last one; of strided tensors the gaps belong to it.
const char* end_of(const torch::Tensor& tensor) {
  return static_cast<const char*>(tensor.const_data_ptr()) + spanned_bytes(tensor);
}

}  // namespace

bool has_non_finite(const torch::Tensor& tensor) {
  if (!tensor.is_cpu()) return elsewhere_has_non_finite(tensor);
  if (tensor.is_non_overlapping_and_dense()) return dense_has_non_finite(tensor);
  return dense_has_non_finite(without_repeats(tensor).contiguous());
}

void CleanMemory::add(const torch::Tensor& tensor) {
  if (tensor.is_non_overlapping_and_dense())
    spans_.push_back({static_cast<const char*>(tensor.const_data_ptr()), end_of(tensor)});
}

void CleanMemory::forget(const torch::Tensor& tensor) {
  const char* const begin = static_cast<const char*>(tensor.const_data_ptr());
  const char* const end = end_of(tensor);
  std::erase_if(spans_, [&](const Span& span) { return span.begin < end && begin < span.end; });
}

bool CleanMemory::contains(const torch::Tensor& tensor) const {
  const char* const begin = static_cast<const char*>(tensor.const_data_ptr());
  const char* const end = end_of(tensor);
  return std::any_of(spans_.begin(), spans_.end(),
                     [&](const Span& span) { return span.begin <= begin && end <= span.end; });
}

}  // namespace halftone
