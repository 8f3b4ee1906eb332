// SPDX-License-Identifier: Apache-2.0
// Loaders of both kinds as one endless stream of batches, cut into epochs. docs/guide.md, "Data of
// your own", describes the kinds.
#pragma once

#include <torch/data/dataloader/base.h>
#include <torch/types.h>

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <optional>
#include <ranges>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "halftone/core/error.h"
#include "halftone/core/random.h"
#include "halftone/core/state_dict.h"
#include "halftone/data/prefetcher.h"

namespace halftone {

/// A loader that makes the batch of any position, as TokenLoader and TensorLoader do; position =
/// epoch * batches_per_epoch() + index. batch_at() is a function of the loader and the position
/// alone and may run on another thread, so that batches are made ahead while a step runs, and a run
/// resumes exactly. `static constexpr bool kPrefetch = false` keeps it on the calling thread.
/// `std::int64_t num_workers() const` says how many threads make batches ahead instead of one, 0
/// for the calling thread; `std::int64_t batches_ahead() const`, how many wait.
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

/// One whose batches are made ahead unless its num_workers() says otherwise.
template <class Loader>
concept PrefetchableLoader = IndexedLoader<Loader> && !requires {
  requires !Loader::kPrefetch;
};

/// The threads that make the batches of `loader` ahead; 0: the calling thread makes them.
template <IndexedLoader Loader>
std::size_t worker_count(const Loader& loader) {
  if constexpr (requires {
                  { loader.num_workers() } -> std::convertible_to<std::int64_t>;
                }) {
    const std::int64_t workers = loader.num_workers();
    HALFTONE_CHECK(workers >= 0, "[trainer] expected num_workers() from 0 on, got ", workers);
    return static_cast<std::size_t>(workers);
  } else {
    return PrefetchableLoader<Loader> ? 1 : 0;
  }
}

/// The batches that wait before a training step takes them.
template <IndexedLoader Loader>
std::size_t batches_ahead_of(const Loader& loader) {
  if constexpr (requires {
                  { loader.batches_ahead() } -> std::convertible_to<std::int64_t>;
                })
    return static_cast<std::size_t>(std::max<std::int64_t>(loader.batches_ahead(), 1));
  else
    return kBatchesAhead;
}

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

/// Which of the batches a process takes: of each turn, as many as there are processes, the one of
/// its rank.
struct BatchShare {
  std::int64_t rank = 0;
  std::int64_t processes = 1;
};

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

  /// Ends each epoch after its first `batches`. `repeats`: all epochs have the batches of the
  /// first. REQUIRES that none was taken, and a positive number.
  void limit(std::int64_t batches, bool repeats) {
    limit_ = batches;
    repeats_ = repeats;
  }
  /// Says whose batches next_turn() gives. REQUIRES that none was taken.
  void share(const BatchShare& share) { share_ = share; }

  /// The process's batch of the next turn; nothing where the epoch has no batch left for it. The
  /// others' are read, and let go.
  auto next_turn() {
    std::optional<Batch> own;
    for (std::int64_t rank = 0; rank < share_.processes; ++rank) {
      if (rank > 0 && index_ == 0) break;  // the epoch is over
      Batch batch = next();
      if (rank == share_.rank) own.emplace(std::move(batch));
    }
    return own;
  }

  auto next() {
    if (repeats_ && index_ < std::ssize(repeated_)) return repeated(index_);
    if (!iterator_) begin_epoch();
    HALFTONE_CHECK(*iterator_ != loader_.end(), kEmptyLoader);
    auto batch = **iterator_;
    ++*iterator_;
    if (repeats_) repeated_.push_back(batch);
    ++index_;
    if (!(*iterator_ != loader_.end()) || index_ == limit_) end_epoch();
    return batch;
  }

  std::int64_t index() const { return index_; }    // in the epoch, of the next batch
  std::int64_t epochs() const { return epochs_; }  // completed

  /// What the loader tells: batches_per_epoch() or size(); else the length of the last epoch.
  std::optional<std::int64_t> batches_per_epoch() const {
    const std::optional<std::int64_t> told = told_length();
    if (told && limit_) return std::min(*told, *limit_);
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
    if (index_ > 0 || repeats_) state.insert(kGenerators, generators_);
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
    repeated_.clear();
    index_ = 0;
    epochs_ = 0;
    const StateDict generators = state.extract(kGenerators);
    if (!generators.tensors.empty()) set_rng_state(torch::kCPU, generators);
    if (repeats_ && epoch > 0) {
      while (epochs_ == 0) next();  // reads what is repeated
      epochs_ = 0;
    }
    skip_to(index);
    if (index_ != index) throw too_short(index, *counted_);
    epochs_ = epoch;
  }

 private:
  using Iterator = decltype(std::declval<Loader&>().begin());
  using Batch = std::remove_cvref_t<decltype(*std::declval<Iterator&>())>;

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
      if (repeats_) return skip_one_by_one(index);
      begin_epoch();
      *iterator_ += index;
      index_ = index;
    } else {
      skip_one_by_one(index);
    }
  }

  void skip_one_by_one(std::int64_t index) {
    while (index_ < index && epochs_ == 0) next();
  }

  Batch repeated(std::int64_t index) {
    Batch batch = repeated_[static_cast<std::size_t>(index)];
    if (++index_ == std::ssize(repeated_)) end_epoch();
    return batch;
  }

  void end_epoch() {
    iterator_.reset();
    counted_ = std::exchange(index_, 0);
    ++epochs_;
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
  std::optional<std::int64_t> limit_;
  BatchShare share_;
  bool repeats_ = false;
  std::vector<Batch> repeated_;  // the first epoch's, where every epoch has them
};

/// Of an IndexedLoader. The position is that of the batches that were taken, whatever was made
/// ahead; the loader's own, if it has one, does not matter.
template <IndexedLoader Loader>
class BatchStream<Loader> {
 public:
  using Batch = std::remove_cvref_t<decltype(std::declval<const Loader&>().batch_at(0))>;

  /// `epochs`: how many will be taken; nothing beyond them is made ahead.
  explicit BatchStream(Loader& loader, std::optional<std::int64_t> epochs = {})
      : loader_(loader),
        length_(std::as_const(loader).batches_per_epoch()),
        workers_(worker_count(std::as_const(loader))),
        epochs_to_take_(epochs) {
    HALFTONE_CHECK(length_ > 0, kEmptyLoader);
  }

  /// As that of the other kind.
  void limit(std::int64_t batches, bool repeats) {
    limit_ = std::min(batches, length());
    repeats_ = repeats;
  }
  void share(const BatchShare& share) { share_ = share; }

  /// As that of the other kind. The others' batches are not made.
  std::optional<Batch> next_turn() {
    const std::int64_t turn = epochs() * turns() + index() / share_.processes;
    std::optional<Batch> batch = take(turn);
    const std::int64_t next = turn + 1;
    position_ = next / turns() * length() + next % turns() * share_.processes;
    return batch;
  }
  /// REQUIRES that no other process takes any.
  Batch next() { return *next_turn(); }

  std::int64_t index() const { return position_ % length(); }
  std::int64_t epochs() const { return position_ / length(); }
  std::optional<std::int64_t> batches_per_epoch() const { return limit_.value_or(length()); }
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
    check_share(index());
  }

 private:
  static constexpr const char* kPosition = "position";
  static constexpr const char* kLength = "batches_per_epoch";

  std::int64_t length() const { return length_; }
  std::int64_t epoch_length() const { return limit_.value_or(length()); }
  /// Of an epoch.
  std::int64_t turns() const { return (epoch_length() + share_.processes - 1) / share_.processes; }

  void check_share(std::int64_t index) const {
    if (index % share_.processes != 0)
      throw UserError("cannot resume: the saved run was at batch " + std::to_string(index) +
                      " of an epoch, where " + std::to_string(share_.processes) +
                      " processes can't go on together; resume with as many as it had");
  }

  /// The process's batch of that turn, counted over epochs.
  std::optional<Batch> batch_of_turn(std::int64_t turn) const {
    const std::int64_t index = turn % turns() * share_.processes + share_.rank;
    if (index >= epoch_length()) return std::nullopt;
    const std::int64_t epoch = repeats_ ? 0 : turn / turns();
    return std::as_const(loader_).batch_at(epoch * length() + index);
  }
  std::optional<Batch> take(std::int64_t turn) {
    if (workers_ == 0) return batch_of_turn(turn);
    if (!ahead_)
      ahead_.emplace([this](std::int64_t at) { return batch_of_turn(at); },
                     batches_ahead_of(std::as_const(loader_)),
                     epochs_to_take_ ? std::optional(*epochs_to_take_ * turns()) : std::nullopt,
                     workers_);
    return ahead_->take(turn);
  }

  Loader& loader_;
  std::int64_t length_;
  std::size_t workers_;  // that make batches ahead
  std::optional<std::int64_t> epochs_to_take_;
  std::int64_t position_ = 0;  // of the next turn's first batch, over all processes
  std::optional<std::int64_t> limit_;
  BatchShare share_;
  bool repeats_ = false;
  std::optional<Prefetcher<std::optional<Batch>>> ahead_;
};

}  // namespace halftone
