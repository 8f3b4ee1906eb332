// SPDX-License-Identifier: Apache-2.0
// From tensors in memory to mini-batches, with the same interface as TokenLoader.
#pragma once

#include <torch/data/example.h>
#include <torch/types.h>

#include <cstdint>
#include <functional>
#include <iterator>
#include <optional>
#include <string>

#include "halftone/core/state_dict.h"
#include "halftone/data/sample_seed.h"

namespace halftone {

struct TensorLoaderOptions {
  std::int64_t batch_size = 1;
  bool shuffle = true;  ///< each epoch in an order of its own
  std::uint64_t seed = 0;
  bool drop_last = false;  ///< leave out an epoch's last batch when it is smaller
  /// What is done to each batch, such as augmentation: a function of the batch, whose tensors are
  /// its own, and of the random numbers of the seed (loader seed and position) alone. It runs where
  /// the batch is made: on the thread that takes it, unless there are workers.
  std::function<torch::data::Example<>(torch::data::Example<> batch, SampleSeed seed)> transform =
      {};
  /// Threads that make a Trainer's batches ahead. 0: none, since the samples are in memory already;
  /// worth it with a transform that takes long, which then runs on all of them at once.
  std::int64_t num_workers = 0;
};

/// Batches by position; the data repeats, epoch after epoch, in orders that the seed fixes. Nothing
/// has to be replayed to resume.
class TensorLoader {
 public:
  /// A Trainer makes no batches ahead, unless num_workers says so.
  static constexpr bool kPrefetch = false;
  /// The batch of LibTorch's data loader with the transform Stack: data (B, ...), target (B, ...).
  using Batch = torch::data::Example<>;

  /// `samples`: data (N, ...) and target (N, ...), N >= 1, shared and not copied; leave them as
  /// they are. TensorLoader loader({images, labels}, {.batch_size = 64});
  TensorLoader(Batch samples, TensorLoaderOptions options);

  const TensorLoaderOptions& options() const { return options_; }
  std::int64_t samples() const { return samples_.data.size(0); }
  std::int64_t batches_per_epoch() const;
  std::int64_t num_workers() const { return options_.num_workers; }

  /// A pure function of data, options and position = epoch * batches_per_epoch() + index, on the
  /// device of the data, safe to call from several threads. The tensors are the caller's own.
  /// Throws what the transform throws.
  Batch batch_at(std::int64_t position) const;

  /// The batch at position(), which moves on.
  Batch next() { return batch_at(position_++); }
  std::int64_t position() const { return position_; }
  std::int64_t epoch() const { return position_ / batches_per_epoch(); }

  /// What is left of the epoch: `for (auto& batch : loader)` takes batches from position() on up to
  /// the end of its epoch, so the next loop is the next epoch. A loop that is left early, or starts
  /// after load_state_dict(), is gone on with, not begun anew.
  class Iterator;
  Iterator begin();
  static std::default_sentinel_t end() { return std::default_sentinel; }

  /// The position, and what it depends on. Loading throws UserError that names the first thing that
  /// differs: data, batch_size, shuffle, seed, drop_last or whether there is a transform, but not
  /// which. The first call reads all of the data.
  StateDict state_dict() const;
  void load_state_dict(const StateDict& state);

 private:
  torch::Tensor rows_at(std::int64_t position) const;

  Batch samples_;
  TensorLoaderOptions options_;
  std::int64_t position_ = 0;
  mutable std::optional<std::string> fingerprint_;
};

class TensorLoader::Iterator {
 public:
  using iterator_category = std::input_iterator_tag;
  using iterator_concept = std::input_iterator_tag;
  using value_type = Batch;
  using difference_type = std::ptrdiff_t;
  using pointer = Batch*;
  using reference = Batch&;

  explicit Iterator(TensorLoader& loader);
  Batch& operator*() const { return batch_; }
  Batch* operator->() const { return &batch_; }
  Iterator& operator++();
  void operator++(int) { ++*this; }
  bool operator==(std::default_sentinel_t) const { return loader_ == nullptr; }

 private:
  TensorLoader* loader_;
  std::int64_t epoch_;
  mutable Batch batch_;
};

}  // namespace halftone
