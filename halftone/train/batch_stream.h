// SPDX-License-Identifier: Apache-2.0
// Loaders of both kinds as one endless stream of batches, cut into epochs. docs/guide.md, "Data of
// your own", describes the kinds.
#pragma once

#include <torch/data/dataloader/base.h>
#include <torch/types.h>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <optional>
#include <ranges>
#include <string>
#include <type_traits>
#include <utility>

#include "halftone/core/error.h"
#include "halftone/core/random.h"
#include "halftone/core/state_dict.h"
#include "halftone/data/prefetcher.h"

namespace halftone {

/// A loader that makes the batch of any position, as TokenLoader and TensorLoader do; position =
/// epoch * batches_per_epoch() + index. batch_at() is a function of the loader and the position
/// alone and may run on another thread, so that batches are made ahead while a step runs, and a run
/// resumes exactly. `static constexpr bool kPrefetch = false` keeps it on the calling thread.
template <class Loader>
concept IndexedLoader = requires(const Loader& loader, std::int64_t position) {
  loader.batch_at(position);
  { loader.batches_per_epoch() } -> std::convertible_to<std::int64_t>;
};

/// A loader whose begin() starts an epoch, such as a torch::data loader or a std::vector.
template <class Loader>
concept EpochLoader = !IndexedLoader<Loader> && requires(Loader & loader) {
  { loader.begin() != loader.end() } -> std::convertible_to<bool>;
  *loader.begin();
  ++std::declval<decltype(loader.begin())&>();
};

/// One whose batches are made ahead.
template <class Loader>
concept PrefetchableLoader = IndexedLoader<Loader> && !requires {
  requires !Loader::kPrefetch;
};

/// A loader that tells another data set from its own: state_dict() has what its batches depend on,
/// and load_state_dict() throws UserError where the saved values differ.
template <class Loader>
concept LoaderWithState = requires(Loader& loader, const Loader& constant, const StateDict& state) {
  { constant.state_dict() } -> std::convertible_to<StateDict>;
  loader.load_state_dict(state);
};

/// A loader with one position for all of its iterators, which a second begin() loses.
template <class Loader>
concept SinglePositionLoader =
    EpochLoader<Loader> && !std::forward_iterator<decltype(std::declval<Loader&>().begin())>;

/// Discards the batches that the workers of a torch::data loader have begun. Without it, begin()
/// throws after an epoch that was left early.
template <class Dataset, class Batch, class Request>
void discard_begun_batches(torch::data::DataLoaderBase<Dataset, Batch, Request>& loader) {
  struct Access : torch::data::DataLoaderBase<Dataset, Batch, Request> {
    static auto shuttle() { return &Access::shuttle_; }
  };
  (loader.*Access::shuttle()).drain();
}

/// Throws UserError unless a run can have saved `value` as its `name`, which counts from 0.
inline void check_saved_count(const char* name, std::int64_t value) {
  if (value < 0)
    throw UserError("cannot resume: expected a saved " + std::string(name) +
                    " of at least 0, got " + std::to_string(value) +
                    "; the checkpoint is damaged, start anew");
}

inline constexpr const char* kEmptyLoader =
    "[trainer] expected a loader with batches, got one without any";

/// Begins at the first batch of the first epoch, wherever the loader was left, and takes every
/// epoch whole. The loader must outlive it. This one is of an EpochLoader.
template <class Loader>
class BatchStream {
 public:
  explicit BatchStream(Loader& loader, std::optional<std::int64_t> /*epochs*/ = {})
      : loader_(loader) {
    HALFTONE_CHECK(batches_per_epoch().value_or(1) > 0, kEmptyLoader);
  }

  auto next() {
    if (!iterator_) begin_epoch();
    HALFTONE_CHECK(*iterator_ != loader_.end(), kEmptyLoader);
    auto batch = **iterator_;
    ++*iterator_;
    ++index_;
    if (!(*iterator_ != loader_.end())) {
      iterator_.reset();
      counted_ = std::exchange(index_, 0);
      ++epochs_;
    }
    return batch;
  }

  std::int64_t index() const { return index_; }    // in the epoch, of the next batch
  std::int64_t epochs() const { return epochs_; }  // completed

  /// What the loader tells: batches_per_epoch() or size(); else the length of the last epoch.
  std::optional<std::int64_t> batches_per_epoch() const {
    const std::optional<std::int64_t> told = told_length();
    return told ? told : counted_;
  }
  /// Runs through an epoch of a loader that does not tell. REQUIRES that none was taken. The random
  /// numbers that it draws are drawn again.
  void count_batches() {
    const StateDict generators = rng_state(torch::kCPU);
    while (epochs_ == 0) next();
    epochs_ = 0;
    set_rng_state(torch::kCPU, generators);
  }

  /// The position, and within an epoch the generator's state at its begin: batches that a sampler
  /// of LibTorch's shuffles come in the same order again.
  StateDict state_dict() const {
    StateDict state;
    state.values = {{"epoch", epochs_}, {"index", index_}};
    if (index_ > 0) state.insert(kGenerators, generators_);
    return state;
  }
  /// Skips the epoch's batches up to the position: the loader must give the same ones again. Throws
  /// UserError where an epoch has not that many, at once if the loader tells how many it has.
  void load_state_dict(const StateDict& state) {
    const auto index = state.get<std::int64_t>("index");
    const auto epoch = state.get<std::int64_t>("epoch");
    check_saved_count("index", index);
    check_saved_count("epoch", epoch);
    if (const auto told = told_length(); told && index > 0 && index >= *told)
      throw too_short(index, *told);
    iterator_.reset();
    index_ = 0;
    epochs_ = 0;
    const StateDict generators = state.extract(kGenerators);
    if (!generators.tensors.empty()) set_rng_state(torch::kCPU, generators);
    skip_to(index);
    if (index_ != index) throw too_short(index, *counted_);
    epochs_ = epoch;
  }

 private:
  using Iterator = decltype(std::declval<Loader&>().begin());

  static constexpr const char* kGenerators = "epoch_rng.";

  static UserError too_short(std::int64_t index, std::int64_t length) {
    return UserError("cannot resume: the saved run was at batch " + std::to_string(index) +
                     " of an epoch, but the data has " + std::to_string(length) +
                     "; put the data back as it was, or start anew");
  }

  std::optional<std::int64_t> told_length() const {
    if constexpr (requires {
                    { loader_.batches_per_epoch() } -> std::convertible_to<std::int64_t>;
                  })
      return loader_.batches_per_epoch();
    else if constexpr (std::ranges::sized_range<Loader>)
      return std::ranges::ssize(loader_);
    else
      return std::nullopt;
  }

  /// Ends early where the epoch does.
  void skip_to(std::int64_t index) {
    if constexpr (std::contiguous_iterator<Iterator> && std::ranges::sized_range<Loader>) {
      if (index == 0) return;
      begin_epoch();
      *iterator_ += index;
      index_ = index;
    } else {
      while (index_ < index && epochs_ == 0) next();
    }
  }

  void begin_epoch() {
    generators_ = rng_state(torch::kCPU);
    if constexpr (requires { discard_begun_batches(loader_); }) discard_begun_batches(loader_);
    iterator_.emplace(loader_.begin());
  }

  Loader& loader_;
  std::optional<Iterator> iterator_;
  StateDict generators_;  // of the CPU, at the begin of the epoch
  std::int64_t index_ = 0;
  std::int64_t epochs_ = 0;
  std::optional<std::int64_t> counted_;
};

/// Of an IndexedLoader. The position is that of the batches that were taken, whatever was made
/// ahead; the loader's own, if it has one, does not matter.
template <IndexedLoader Loader>
class BatchStream<Loader> {
 public:
  /// `epochs`: how many will be taken; nothing beyond them is made ahead.
  explicit BatchStream(Loader& loader, std::optional<std::int64_t> epochs = {})
      : loader_(loader),
        ahead_([&loader](std::int64_t at) { return std::as_const(loader).batch_at(at); },
               kBatchesAhead, epochs ? std::optional(*epochs * length()) : std::nullopt) {
    HALFTONE_CHECK(length() > 0, kEmptyLoader);
  }

  auto next() {
    if constexpr (PrefetchableLoader<Loader>) {
      auto batch = ahead_.take(position_);
      ++position_;
      return batch;
    } else {
      auto batch = std::as_const(loader_).batch_at(position_);
      ++position_;
      return batch;
    }
  }

  std::int64_t index() const { return position_ % length(); }
  std::int64_t epochs() const { return position_ / length(); }
  std::optional<std::int64_t> batches_per_epoch() const { return length(); }
  void count_batches() {}

  StateDict state_dict() const {
    StateDict state;
    if constexpr (LoaderWithState<Loader>)
      state = std::as_const(loader_).state_dict();
    else
      state.values[kLength] = length();
    state.values[kPosition] = position_;
    return state;
  }
  void load_state_dict(const StateDict& state) {
    const auto position = state.get<std::int64_t>(kPosition);
    check_saved_count(kPosition, position);
    if constexpr (LoaderWithState<Loader>) {
      loader_.load_state_dict(state);
    } else if (const auto saved = state.get<std::int64_t>(kLength); saved != length()) {
      throw UserError("cannot resume: an epoch of the saved run had " + std::to_string(saved) +
                      " batches, now it has " + std::to_string(length()) +
                      "; put the data back as it was, or start anew");
    }
    position_ = position;
  }

 private:
  static constexpr const char* kPosition = "position";
  static constexpr const char* kLength = "batches_per_epoch";

  std::int64_t length() const { return std::as_const(loader_).batches_per_epoch(); }

  Loader& loader_;
  std::int64_t position_ = 0;
  Prefetcher<std::remove_cvref_t<decltype(std::declval<const Loader&>().batch_at(0))>> ahead_;
};

}  // namespace halftone
