// SPDX-License-Identifier: Apache-2.0
// Loaders of every kind as one endless stream of batches, cut into epochs.
#pragma once

#include <torch/types.h>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <optional>
#include <ranges>
#include <utility>

#include "halftone/core/error.h"
#include "halftone/core/state_dict.h"
#include "halftone/data/prefetcher.h"

namespace halftone {

/// A loader that knows its length and position, as BatchLoader and TensorLoader do: runs over it
/// resume exactly, and its batches come in the same order again.
template <class Loader>
concept ResumableLoader = requires(Loader& loader, const StateDict& state) {
  loader.next();
  { loader.position() } -> std::convertible_to<std::int64_t>;
  { loader.batches_per_epoch() } -> std::convertible_to<std::int64_t>;
  { loader.state_dict() } -> std::convertible_to<StateDict>;
  loader.load_state_dict(state);
};

/// One that gives any thread the batch of any position, as BatchLoader does: batches are made ahead
/// while the step runs.
template <class Loader>
concept PrefetchableLoader = ResumableLoader<Loader> &&
    requires(Loader& loader, const Loader& constant) {
  constant.batch_at(std::int64_t{});
  loader.skip();
};

/// `batch` on `device`: tensors, torch::data::Example, pairs and containers of them, and whatever
/// has a member to(torch::Device).
template <class Batch>
Batch to_device(const Batch& batch, const torch::Device& device) {
  if constexpr (requires {
                  { batch.to(device) } -> std::convertible_to<Batch>;
                }) {
    return batch.to(device);
  } else if constexpr (requires { Batch(batch.data, batch.target); }) {
    return Batch(to_device(batch.data, device), to_device(batch.target, device));
  } else if constexpr (requires { Batch(batch.first, batch.second); }) {
    return Batch(to_device(batch.first, device), to_device(batch.second, device));
  } else if constexpr (std::ranges::range<Batch>) {
    Batch moved;
    for (const auto& part : batch) moved.insert(moved.end(), to_device(part, device));
    return moved;
  } else {
    static_assert(sizeof(Batch) == 0,
                  "this batch can't be moved to a device: give its type a member "
                  "`Batch to(torch::Device) const`");
  }
}

/// Any range whose begin() starts an epoch, such as a torch::data loader. Its length shows only at
/// its end, and resuming skips the batches that were seen: exact as far as the range gives the same
/// batches again.
template <class Range>
class BatchStream {
 public:
  explicit BatchStream(Range& range) : range_(range) {}

  auto next() {
    if (!iterator_) iterator_.emplace(range_.begin());
    HALFTONE_CHECK(*iterator_ != range_.end(),
                   "[trainer] expected a loader with batches, got one "
                   "without any");
    auto batch = **iterator_;
    ++*iterator_;
    ++index_;
    if (*iterator_ == range_.end()) {
      iterator_.reset();
      batches_per_epoch_ = std::exchange(index_, 0);
      ++epochs_;
    }
    return batch;
  }

  std::int64_t index() const { return index_; }    // in the epoch, of the next batch
  std::int64_t epochs() const { return epochs_; }  // completed
  std::optional<std::int64_t> batches_per_epoch() const { return batches_per_epoch_; }

  StateDict state_dict() const {
    StateDict state;
    state.values = {{"epoch", epochs_}, {"index", index_}};
    return state;
  }
  void load_state_dict(const StateDict& state) {
    iterator_.reset();
    index_ = 0;
    for (auto left = state.get<std::int64_t>("index"); left > 0; --left) next();
    epochs_ = state.get<std::int64_t>("epoch");
  }

 private:
  Range& range_;
  std::optional<decltype(std::declval<Range&>().begin())> iterator_;
  std::int64_t index_ = 0;
  std::int64_t epochs_ = 0;
  std::optional<std::int64_t> batches_per_epoch_;
};

/// What a loader that knows its position answers by itself. The position is that of the batches
/// that were taken, whatever was made ahead.
template <ResumableLoader Loader>
class LoaderStream {
 public:
  explicit LoaderStream(Loader& loader) : loader_(loader) {
    HALFTONE_CHECK(loader.batches_per_epoch() > 0,
                   "[trainer] expected a loader with batches, got one without any");
  }

  std::int64_t index() const { return loader_.position() % loader_.batches_per_epoch(); }
  std::int64_t epochs() const { return loader_.position() / loader_.batches_per_epoch(); }
  std::optional<std::int64_t> batches_per_epoch() const { return loader_.batches_per_epoch(); }
  StateDict state_dict() const { return loader_.state_dict(); }
  void load_state_dict(const StateDict& state) { loader_.load_state_dict(state); }

 protected:
  Loader& loader_;
};

template <ResumableLoader Loader>
class BatchStream<Loader> : public LoaderStream<Loader> {
 public:
  using LoaderStream<Loader>::LoaderStream;
  auto next() { return this->loader_.next(); }
};

template <PrefetchableLoader Loader>
class BatchStream<Loader> : public LoaderStream<Loader> {
 public:
  explicit BatchStream(Loader& loader)
      : LoaderStream<Loader>(loader),
        ahead_(
            [&loader](std::int64_t position) { return std::as_const(loader).batch_at(position); },
            kBatchesAhead) {}

  auto next() {
    auto batch = ahead_.take(this->loader_.position());
    this->loader_.skip();
    return batch;
  }

 private:
  Prefetcher<decltype(std::declval<const Loader&>().batch_at(0))> ahead_;
};

}  // namespace halftone
