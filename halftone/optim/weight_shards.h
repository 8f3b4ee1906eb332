// SPDX-License-Identifier: Apache-2.0
// Weights of which each process keeps a part (Rajbhandari et al. 2020, ZeRO, stage 3): the others'
// are brought while something computes with them.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "halftone/core/process_group.h"
#include "halftone/optim/gradient_buckets.h"
#include "halftone/optim/parameter_arena.h"
#include "halftone/optim/pieces_under_way.h"

namespace halftone {

/// The parts are the pieces of gradient_buckets(), so that a process keeps what it updates. A
/// bucket is complete while one of its parameters is in use; else the others' pieces of it are
/// zero, and on the CPU take no memory. All processes call the same functions in the same order.
///
/// A parameter is in use to begin with: until reshard() is called for it the first time. From then
/// on it is in use between unshard() and reshard() alone.
class WeightShards {
 public:
  /// All weights are complete, and the same on all processes. Both must outlive it; nobody else
  /// uses the group meanwhile.
  WeightShards(const ParameterArena& arena, ProcessGroup& group);

  /// Completes the buckets of these parameters, which are in use until as many calls of reshard().
  void unshard(const std::vector<std::size_t>& parameters);
  void reshard(const std::vector<std::size_t>& parameters);

  /// Begins to bring what the next unshard(), of these parameters, will complete, keeps what is
  /// complete of it, and waits for nothing.
  void prefetch(const std::vector<std::size_t>& parameters);
  /// Lets go of what prefetch() has begun to bring and unshard() has not taken.
  void drop_prefetched();

  bool is_complete() const;
  bool is_complete(std::size_t parameter) const {
    return buckets_[bucket_of_.at(parameter)].is_complete;
  }

  /// After an update, of which each process made its part: brings the others' of what is complete.
  void refresh();

  /// Completes all that is not, until drop_unused(): on the process `root` alone, or on all (-1).
  void complete(std::int64_t root = -1);
  void drop_unused();

 private:
  struct Bucket {
    GradientBucket place;
    std::size_t users = 0;
    bool is_complete = true;
    std::optional<PiecesUnderWay> coming;
  };

  const torch::Tensor& flat_of(const Bucket& bucket) const;
  void begin_to_bring(Bucket& bucket);
  void finish_bringing(Bucket& bucket);
  void bring(const std::vector<Bucket*>& buckets);
  void drop(Bucket& bucket);
  /// Those of the parameters, each once, in the order in which all processes know them.
  std::vector<std::size_t> buckets_of(const std::vector<std::size_t>& parameters) const;
  std::vector<Bucket*> missing(const std::vector<std::size_t>& parameters);

  const ParameterArena& arena_;
  ProcessGroup& group_;
  std::vector<Bucket> buckets_;
  std::vector<std::size_t> bucket_of_;       // of each parameter
  std::vector<std::uint8_t> was_resharded_;  // likewise
  std::vector<std::size_t> claimed_;         // buckets that prefetch() keeps until unshard()
  bool is_kept_ = false;                     // all that is complete
};

}  // namespace halftone
