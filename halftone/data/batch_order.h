// SPDX-License-Identifier: Apache-2.0
// Which samples the batch of a position has: what a DataLoader knows without its data.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "halftone/core/state_dict.h"
#include "halftone/data/sample_seed.h"
#include "halftone/data/samplers.h"

namespace halftone {

struct DataLoaderOptions {
  std::int64_t batch_size = 1;
  bool shuffle = true;  ///< each epoch in an order of its own
  std::uint64_t seed = 0;
  bool drop_last = false;  ///< leave out an epoch's last batch when it is smaller
  /// Threads that make batches ahead; 0: each is made on the thread that takes it.
  std::int64_t num_workers = 1;
  /// Batches that wait at most, besides one that each worker is making.
  std::int64_t batches_ahead = 4;
  std::optional<Sampler> sampler = {};  ///< the order, in place of what `shuffle` says
};

class BatchOrder {
 public:
  /// `samples`: of the data set. Throws c10::Error for options out of range and what the sampler
  /// throws for a data set that it does not fit.
  BatchOrder(std::int64_t samples, DataLoaderOptions options);

  const DataLoaderOptions& options() const { return options_; }
  std::int64_t samples() const { return samples_; }
  std::int64_t batches_per_epoch() const;

  struct Pick {
    std::int64_t index = 0;  // of the sample
    SampleSeed seed;
  };
  /// Those of the batch at position = epoch * batches_per_epoch() + index, in order.
  std::vector<Pick> picks_at(std::int64_t position) const;
  /// For what is random in the making of the batch as a whole.
  SampleSeed batch_seed(std::int64_t position) const;

  /// What the batches depend on: samples, batch_size, sampler, seed and drop_last. How many threads
  /// make them does not matter.
  StateDict state_dict() const;
  /// Throws UserError that names the first value in which a loader's states `saved` and `now`
  /// differ; the position does not count.
  static void check_same(const StateDict& saved, const StateDict& now);
  /// Throws UserError for a position that no run can have saved.
  static std::int64_t saved_position(const StateDict& saved);

 private:
  std::int64_t samples_;
  DataLoaderOptions options_;
  Sampler sampler_;
  std::int64_t places_;  // of an epoch
};

}  // namespace halftone
