// SPDX-License-Identifier: Apache-2.0
#include "halftone/nn/kv_cache.h"

#include <ATen/ops/empty.h>

#include "halftone/core/error.h"

namespace halftone {

using torch::Tensor;

KvCache::KvCache(std::int64_t n_layers, std::int64_t capacity)
    : layers_(static_cast<std::size_t>(n_layers)), capacity_(capacity) {}

KvCache KvCache::of_rows(std::vector<KvCache*> rows) {
  KvCache joined(0, 0);
  joined.rows_ = std::move(rows);
  return joined;
}

std::pair<Tensor, Tensor> KvCache::append(std::int64_t layer, const Tensor& key,
                                          const Tensor& value) {
  const std::int64_t count = key.size(2);
  HALFTONE_CHECK(length_ + count <= capacity_, "[kv_cache] expected at most ", capacity_,
                 " positions, got ", length_ + count);
  Layer& held = layers_.at(static_cast<std::size_t>(layer));
  if (!held.keys.defined()) {
    const std::vector<std::int64_t> shape{key.size(0), key.size(1), capacity_, key.size(3)};
    held.keys = at::empty(shape, key.options());
    held.values = at::empty(shape, value.options());
  }
  held.keys.narrow(2, length_, count).copy_(key.detach());
  held.values.narrow(2, length_, count).copy_(value.detach());
  return {held.keys.narrow(2, 0, length_ + count), held.values.narrow(2, 0, length_ + count)};
}

void KvCache::advance(std::int64_t positions) {
  length_ += positions;
  for (KvCache* row : rows_) row->advance(positions);
}

void KvCache::truncate(std::int64_t length) {
  HALFTONE_CHECK(0 <= length && length <= length_, "[kv_cache] expected to keep at most ", length_,
                 " positions, got ", length);
  length_ = length;
}

}  // namespace halftone
