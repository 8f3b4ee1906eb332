// SPDX-License-Identifier: Apache-2.0
// What a batch or a sample of any type consists of.
#pragma once

#include <tuple>
#include <type_traits>
#include <variant>

namespace halftone {

/// std::pair, std::tuple, std::array: a fixed number of parts.
template <class Batch>
concept TupleBatch = requires {
  std::tuple_size<Batch>::value;
};

/// A struct that lists its parts by a member `auto tensors() { return std::tie(images, labels); }`,
/// or by a function `auto batch_tensors(T& batch)` of its own namespace. A part may be whatever a
/// batch may be; what is not listed is copied.
template <class Batch>
concept ListedBatch = requires(Batch& batch) {
  requires TupleBatch<decltype(batch.tensors())>;
}
|| requires(Batch& batch) { requires TupleBatch<decltype(batch_tensors(batch))>; };

template <ListedBatch Batch>
auto listed_parts(Batch& batch) {
  if constexpr (requires { batch.tensors(); })
    return batch.tensors();
  else
    return batch_tensors(batch);
}

/// std::map and its like.
template <class Batch>
concept MapBatch = requires {
  typename Batch::key_type;
  typename Batch::mapped_type;
};

template <class Batch>
concept VariantBatch = requires {
  std::variant_size<Batch>::value;
};

/// std::optional, and not a pointer.
template <class Batch>
concept OptionalBatch = requires(const Batch& batch) {
  typename Batch::value_type;
  batch.has_value();
  *batch;
};

}  // namespace halftone
