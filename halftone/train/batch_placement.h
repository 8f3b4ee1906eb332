// SPDX-License-Identifier: Apache-2.0
// A batch of any type on the device and in the dtype that a step takes it in.
#pragma once

#include <torch/types.h>

#include <concepts>
#include <optional>
#include <ranges>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>
#include <variant>

#include "halftone/core/device.h"
#include "halftone/data/batch_parts.h"

namespace halftone {

/// Where and how a step takes its batches.
struct BatchPlacement {
  torch::Device device;
  /// Dtype of floating-point tensors; each keeps its own where there is none.
  std::optional<torch::ScalarType> floating;
};

template <class Batch>
Batch placed(const Batch& batch, const BatchPlacement& place);

/// A copy of `batch` whose listed parts are placed.
template <ListedBatch Batch>
Batch placed_parts(Batch batch, const BatchPlacement& place) {
  std::apply([&](auto&... parts) { ((parts = placed(std::as_const(parts), place)), ...); },
             listed_parts(batch));
  return batch;
}

/// `batch` on the device, its floating-point tensors in the dtype; integer, bool and complex ones
/// keep theirs. Takes tensors, torch::data::Example, tuples, containers and maps of them; numbers
/// and strings in them are copied. A struct that lists its parts by tensors() (ListedBatch), a
/// std::optional and a std::variant are placed part by part. A type with a member to(torch::Device)
/// is moved by it and cast nowhere, unless it has to(torch::Device, torch::ScalarType) too.
template <class Batch>
Batch placed(const Batch& batch, const BatchPlacement& place) {
  if constexpr (std::is_same_v<Batch, torch::Tensor>) {
    if (!batch.defined()) return batch;
    const bool cast = place.floating && batch.is_floating_point();
    return to_device(batch, place.device, cast ? place.floating : std::nullopt);
  } else if constexpr (std::is_arithmetic_v<Batch> ||
                       std::is_convertible_v<const Batch&, std::string_view>) {
    return batch;
  } else if constexpr (requires {
                         { batch.to(place.device) } -> std::convertible_to<Batch>;
                       }) {
    if constexpr (requires {
                    { batch.to(place.device, *place.floating) } -> std::convertible_to<Batch>;
                  })
      if (place.floating) return batch.to(place.device, *place.floating);
    return batch.to(place.device);
  } else if constexpr (ListedBatch<Batch>) {
    return placed_parts(batch, place);
  } else if constexpr (VariantBatch<Batch>) {
    return std::visit([&](const auto& held) { return Batch(placed(held, place)); }, batch);
  } else if constexpr (OptionalBatch<Batch>) {
    return batch ? Batch(placed(*batch, place)) : batch;
  } else if constexpr (requires { Batch(batch.data, batch.target); }) {
    return Batch(placed(batch.data, place), placed(batch.target, place));
  } else if constexpr (requires { Batch(batch.data); }) {
    return Batch(placed(batch.data, place));
  } else if constexpr (TupleBatch<Batch>) {
    return std::apply([&](const auto&... parts) { return Batch{placed(parts, place)...}; }, batch);
  } else if constexpr (std::ranges::range<Batch>) {
    Batch moved;
    for (const auto& part : batch) moved.insert(moved.end(), placed(part, place));
    return moved;
  } else {
    static_assert(sizeof(Batch) == 0,
                  "this batch can't be moved to a device: give its type a member "
                  "`auto tensors() { return std::tie(...); }` that lists its tensors, or "
                  "`Batch to(torch::Device) const`");
  }
}

}  // namespace halftone
