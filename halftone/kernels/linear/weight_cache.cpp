// SPDX-License-Identifier: Apache-2.0
#include "halftone/kernels/linear/weight_cache.h"

#include "halftone/kernels/linear/merged_weights_impl.h"

namespace halftone {
namespace {

thread_local WeightCache* innermost_cache = nullptr;

}  // namespace

WeightCache::WeightCache() : outer_(innermost_cache) { innermost_cache = this; }
WeightCache::~WeightCache() { innermost_cache = outer_; }

template <class Value>
Value WeightCache::once(at::TensorList weights, Format format,
                        const std::function<Value()>& convert) {
  if (innermost_cache == nullptr) return convert();
  std::vector<std::uint32_t> versions;
  for (const torch::Tensor& weight : weights) {
    if (weight.is_inference()) return convert();  // it has no version
    versions.push_back(static_cast<std::uint32_t>(weight._version()));
  }
  const Key key{weights.front().const_data_ptr(), total_rows(weights), weights.front().size(1),
                format};
  Entry& entry = innermost_cache->entries_[key];
  if (entry.versions != versions) entry = {std::move(versions), convert()};
  return std::get<Value>(entry.value);
}

torch::Tensor cached_cast(at::TensorList weights, torch::ScalarType dtype,
                          const std::function<torch::Tensor()>& convert) {
  using Format = WeightCache::Format;
  const Format format = dtype == torch::kHalf ? Format::kHalf : Format::kBFloat16;
  return WeightCache::once<torch::Tensor>(weights, format, convert);
}

Int8Matrix cached_quantize(at::TensorList weights, bool transposed,
                           const std::function<Int8Matrix()>& convert) {
  using Format = WeightCache::Format;
  const Format format = transposed ? Format::kInt8Transposed : Format::kInt8;
  return WeightCache::once<Int8Matrix>(weights, format, convert);
}

}  // namespace halftone
