// SPDX-License-Identifier: Apache-2.0
// How much each batch counts in a mean over batches.
#pragma once

#include <torch/types.h>

#include <concepts>
#include <cstdint>
#include <ranges>
#include <span>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "halftone/core/process_group.h"
#include "halftone/data/batch_parts.h"

namespace halftone {

/// The mean that the loss of an optimizer step is over its micro-batches.
enum class LossAverage {
  kTokens,        // each micro-batch weighs its loss_weight(): tokens or samples
  kMicroBatches,  // all weigh the same: MiniMind's mean of means
};

/// The names "tokens" and "micro-batches".
const std::vector<std::string>& loss_average_names();
/// Throws UserError, which lists the names, for an unknown one.
LossAverage parse_loss_average(std::string_view name);

/// What a batch counts. In training both weights are relative to the mean of the optimizer step's
/// batches: exactly 1 where all batches weigh the same.
struct BatchWeight {
  double loss = 1.0;             // in the mean of the losses
  double samples = 1.0;          // in a mean over samples
  double samples_to_loss = 1.0;  // turns a mean over samples into a term of the loss
};

/// The weights of an optimizer step's batches from what they count: `losses` and `samples` are of
/// one size. Batches that all count 0 weigh the same.
std::vector<BatchWeight> relative_weights(std::span<const double> losses,
                                          std::span<const double> samples);

/// What a batch counts, in its own units.
struct BatchCount {
  double loss = 0;
  double samples = 0;
};

/// The relative_weights() of this process's batches among those of all processes, which have
/// `turns` of them each; those that it does not have weigh 0. Waits for the others.
std::vector<BatchWeight> shared_weights(ProcessGroup& group, const std::vector<BatchCount>& own,
                                        std::int64_t turns);

/// The samples of `batch`: what its samples() says; the first dimension of a tensor; those of the
/// `data`, of the first part of a pair, tuple, array or struct with tensors(), of the first value
/// of a map, and of what an optional or variant holds; the elements of another container, as
/// LibTorch's loaders give without Stack. Otherwise 1.
template <class Batch>
std::int64_t sample_count(const Batch& batch) {
  if constexpr (requires {
                  { batch.samples() } -> std::convertible_to<std::int64_t>;
                }) {
    return batch.samples();
  } else if constexpr (std::is_same_v<Batch, torch::Tensor>) {
    return batch.defined() && batch.dim() > 0 ? batch.size(0) : 1;
  } else if constexpr (ListedBatch<Batch>) {
    Batch copy = batch;  // its tensors are shared
    return sample_count(std::as_const(std::get<0>(listed_parts(copy))));
  } else if constexpr (TupleBatch<Batch>) {
    if constexpr (std::tuple_size_v < Batch >> 0) return sample_count(std::get<0>(batch));
    return 1;
  } else if constexpr (MapBatch<Batch>) {
    return batch.empty() ? 1 : sample_count(batch.begin()->second);
  } else if constexpr (std::ranges::sized_range<const Batch>) {
    return static_cast<std::int64_t>(std::ranges::size(batch));
  } else if constexpr (VariantBatch<Batch>) {
    return std::visit([](const auto& held) { return sample_count(held); }, batch);
  } else if constexpr (OptionalBatch<Batch>) {
    return batch ? sample_count(*batch) : 1;
  } else if constexpr (requires { batch.data; }) {
    return sample_count(batch.data);
  } else if constexpr (requires { batch.first; }) {
    return sample_count(batch.first);
  } else {
    return 1;
  }
}

}  // namespace halftone
