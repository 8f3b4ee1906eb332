// SPDX-License-Identifier: Apache-2.0
// From a data set with samples by index to batches by position, made ahead on several threads:
// what torch.utils.data.DataLoader is in Python.
//
//   struct Digits {                                        // read on several threads at once
//     std::int64_t size() const;
//     torch::data::Example<> get(std::int64_t index) const;
//   };
//   halftone::DataLoader loader(Digits(), {.batch_size = 64, .num_workers = 4});
#pragma once

#include <c10/util/ArrayRef.h>
#include <torch/types.h>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "halftone/core/error.h"
#include "halftone/core/state_dict.h"
#include "halftone/data/batch_order.h"
#include "halftone/data/collate.h"
#include "halftone/data/prefetcher.h"
#include "halftone/data/sample_seed.h"

namespace halftone {

/// A data set whose random transforms draw from the seed that it is given.
template <class Data>
concept SeededDataset = requires(Data& data, std::int64_t index, SampleSeed seed) {
  data.get(index, seed);
};
/// One with samples by index, as torch::data::datasets::Dataset or a std::vector of samples.
template <class Data>
concept IndexedDataset = SeededDataset<Data> || requires(Data& data, std::int64_t index) {
  data.get(index);
} || requires(Data& data, std::size_t index) {
  data[index];
};
/// One of LibTorch's that gives several samples at once, as its map() does.
template <class Data>
concept BatchedDataset = requires(Data& data, c10::ArrayRef<std::size_t> indices) {
  data.get_batch(indices);
};
template <class Data>
concept MapStyleDataset = IndexedDataset<Data> || BatchedDataset<Data>;

template <MapStyleDataset Data>
decltype(auto) sample_of(Data& data, const BatchOrder::Pick& pick) {
  if constexpr (SeededDataset<Data>)
    return data.get(pick.index, pick.seed);
  else if constexpr (requires { data.get(pick.index); })
    return data.get(pick.index);
  else
    return data[static_cast<std::size_t>(pick.index)];
}

/// The samples as a vector; of a BatchedDataset what its get_batch() gives.
template <MapStyleDataset Data>
auto samples_of(Data& data, std::span<const BatchOrder::Pick> picks) {
  if constexpr (IndexedDataset<Data>) {
    std::vector<std::remove_cvref_t<decltype(sample_of(data, picks.front()))>> samples;
    samples.reserve(picks.size());
    for (const BatchOrder::Pick& pick : picks) samples.push_back(sample_of(data, pick));
    return samples;
  } else {
    std::vector<std::size_t> indices;
    indices.reserve(picks.size());
    for (const BatchOrder::Pick& pick : picks)
      indices.push_back(static_cast<std::size_t>(pick.index));
    return data.get_batch(indices);
  }
}

/// Throws c10::Error for one of LibTorch's that does not know its size.
template <class Data>
std::int64_t dataset_size(const Data& data) {
  if constexpr (requires { *data.size(); }) {
    const auto size = data.size();
    HALFTONE_CHECK(size, "[data_loader] expected a data set whose size() is known");
    return static_cast<std::int64_t>(*size);
  } else {
    return static_cast<std::int64_t>(std::size(data));
  }
}

/// `holder` itself, or what it points to.
template <class Holder>
auto& dataset_in(Holder& holder) {
  if constexpr (requires { holder.operator->(); })
    return *holder;
  else
    return holder;
}

/// What a loader reads from: const, where that has a get() that is.
template <class Dataset>
struct ReadDataset {
  using Held = std::remove_reference_t<decltype(dataset_in(std::declval<Dataset&>()))>;
  static_assert(MapStyleDataset<Held>,
                "this data set lacks `Sample get(std::int64_t index) const`, which gives the "
                "sample at an index");
  static constexpr bool kByManyThreads = MapStyleDataset<const Held>;
  using Type = std::conditional_t<kByManyThreads, const Held, Held>;
};

template <class Collate, class Samples>
auto collate_with(const Collate& collate, Samples samples, SampleSeed seed) {
  if constexpr (std::invocable<const Collate&, Samples, SampleSeed>) {
    return collate(std::move(samples), seed);
  } else if constexpr (std::invocable<const Collate&, Samples>) {
    return collate(std::move(samples));
  } else {
    static_assert(std::is_same_v<Collate, DefaultCollate>,
                  "the collate function must be const and take a std::vector of the data set's "
                  "samples");
    return samples;  // get_batch() has made a batch of them
  }
}

/// Batches by position of a data set; the data repeats, epoch after epoch, in orders that the seed
/// fixes. Nothing has to be replayed to resume, and how many threads make the batches changes none.
///
/// `Dataset`, or what a pointer of that type points to:
///   size() const           how many samples; std::size() and LibTorch's optional one will do
///   get(index)             the sample, a function of the data set and the index (from 0) alone; or
///   get(index, SampleSeed) the same with random transforms, which draw from the seed alone; or
///   operator[](index)      as a std::vector of samples has; or
///   get_batch(indices)     as LibTorch's mapped data sets have: Stack<> needs no collate function
///   fingerprint() const    optional: text that differs where the data does, for resuming
/// One whose get() is const is read by several threads at once, which it must bear. One whose get()
/// is not const, as that of LibTorch's data sets, is read by one thread at a time: then only what
/// comes behind it, collating, is done side by side.
///
/// `Collate`: Batch collate(std::vector<Sample>), or (std::vector<Sample>, SampleSeed) for what is
/// random in a batch; const, and called from several threads at once.
template <class Dataset, class Collate = DefaultCollate>
class DataLoader {
  using Data = typename ReadDataset<Dataset>::Type;

 public:
  using Batch = decltype(collate_with(
      std::declval<const Collate&>(),
      samples_of(std::declval<Data&>(), std::span<const BatchOrder::Pick>()), SampleSeed()));

  explicit DataLoader(Dataset dataset, DataLoaderOptions options = {}, Collate collate = {})
      : dataset_(std::move(dataset)),
        collate_(std::move(collate)),
        order_(dataset_size(data()), std::move(options)) {}

  const DataLoaderOptions& options() const { return order_.options(); }
  const Dataset& dataset() const { return dataset_; }
  std::int64_t samples() const { return order_.samples(); }
  std::int64_t batches_per_epoch() const { return order_.batches_per_epoch(); }
  std::int64_t num_workers() const { return options().num_workers; }
  std::int64_t batches_ahead() const { return options().batches_ahead; }

  /// A pure function of data, options and position = epoch * batches_per_epoch() + index, safe to
  /// call from several threads. Throws what the data set and the collate function throw.
  Batch batch_at(std::int64_t position) const {
    return collate_with(collate_, read(order_.picks_at(position)), order_.batch_seed(position));
  }

  /// The batch at position(), which moves on; made on the calling thread.
  Batch next() { return batch_at(position_++); }
  std::int64_t position() const { return position_; }
  std::int64_t epoch() const { return position_ / batches_per_epoch(); }

  /// What is left of the epoch, made ahead by the workers: `for (auto& batch : loader)` takes
  /// batches from position() on up to the end of its epoch. A loop that is left early is gone on
  /// with, not begun anew. The loader must stay where it is meanwhile.
  class Iterator;
  Iterator begin() { return Iterator(*this); }
  static std::default_sentinel_t end() { return std::default_sentinel; }

  /// The position, and what it depends on. Loading throws UserError that names the first thing that
  /// differs: samples, batch_size, sampler, seed, drop_last, or the data's fingerprint ("data").
  StateDict state_dict() const {
    StateDict state = order_.state_dict();
    state.values["position"] = position_;
    if constexpr (requires { std::string(data().fingerprint()); })
      state.values["data"] = std::string(data().fingerprint());
    return state;
  }
  void load_state_dict(const StateDict& state) {
    BatchOrder::check_same(state, state_dict());
    position_ = BatchOrder::saved_position(state);
  }

 private:
  Data& data() const { return dataset_in(dataset_); }

  auto read(std::span<const BatchOrder::Pick> picks) const {
    std::unique_lock<std::mutex> lock;
    if constexpr (!ReadDataset<Dataset>::kByManyThreads) lock = std::unique_lock(*one_reader_);
    return samples_of(data(), picks);
  }

  mutable Dataset dataset_;  // changed only by a get() that is not const, under the lock
  Collate collate_;
  BatchOrder order_;
  std::int64_t position_ = 0;
  std::unique_ptr<std::mutex> one_reader_ = std::make_unique<std::mutex>();
};

template <class Dataset, class Collate>
class DataLoader<Dataset, Collate>::Iterator {
 public:
  using iterator_concept = std::input_iterator_tag;
  using value_type = Batch;
  using difference_type = std::ptrdiff_t;

  explicit Iterator(DataLoader& loader)
      : loader_(&loader), end_((loader.epoch() + 1) * loader.batches_per_epoch()) {
    if (const auto workers = static_cast<std::size_t>(loader.num_workers()); workers > 0)
      ahead_ = std::make_unique<Prefetcher<Batch>>(
          [&loader](std::int64_t position) { return loader.batch_at(position); },
          static_cast<std::size_t>(loader.batches_ahead()), end_, workers);
    ++*this;
  }

  Batch& operator*() const { return *batch_; }
  Batch* operator->() const { return &*batch_; }
  Iterator& operator++() {
    if (loader_->position_ >= end_) {
      is_at_end_ = true;
      return *this;
    }
    batch_.reset();  // before the next is there
    batch_.emplace(ahead_ ? ahead_->take(loader_->position_)
                          : loader_->batch_at(loader_->position_));
    ++loader_->position_;
    return *this;
  }
  void operator++(int) { ++*this; }
  bool operator==(std::default_sentinel_t) const { return is_at_end_; }

 private:
  DataLoader* loader_;
  std::int64_t end_;
  std::unique_ptr<Prefetcher<Batch>> ahead_;
  mutable std::optional<Batch> batch_;
  bool is_at_end_ = false;
};

}  // namespace halftone
