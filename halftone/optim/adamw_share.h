// SPDX-License-Identifier: Apache-2.0
// What each of several processes allocates for an AdamW, computed from shapes alone.
#pragma once

#include <cstdint>
#include <vector>

#include "halftone/optim/adamw_layout.h"
#include "halftone/optim/gradient_sum.h"

namespace halftone {

/// Processes that train one model, and what they share of its state.
struct AdamWShare {
  std::int64_t processes = 1;
  bool states = false;     // AdamWOptions::shard_over
  bool gradients = false;  // AdamWOptions::shard_gradients; REQUIRES states
  bool weights = false;    // AdamWOptions::shard_weights; REQUIRES gradients
  /// Where weights are shared: of each parameter the number of the block that runs with it, -1
  /// for one that is in use all the time (WeightShards).
  std::vector<std::int64_t> block_of = {};
  GradientTransport transport = GradientTransport::kExact;
};

/// Of one process.
struct AdamWShareBytes {
  OptimizerBytes optimizer;        // AdamW::bytes()
  std::vector<std::int64_t> room;  // elements of the states of each of adamw_layout()'s buffers
  /// Where gradients are shared: of complete gradients that are not sent yet, as many as two
  /// buckets at a time (gradient_buckets.h). More where the network is slower than the backward
  /// pass.
  std::int64_t unsent = 0;
  /// Where weights are shared: the others' that are complete beside the own ones, the most at a
  /// time.
  std::int64_t in_use = 0;
  std::int64_t under_way = 0;  // of the buckets' copies that travel, the most at a time
  std::int64_t buckets = 0;
  std::int64_t gradients_in_transit = 0;  // all gradients, in the format in which they travel
  std::int64_t weights_in_transit = 0;    // that come in each pass, or else behind the update
  /// Where weights are shared: those that are in use all the time, and come behind the update.
  std::int64_t weights_behind = 0;
  std::int64_t last_bucket = 0;  // of these, what is complete only with the backward pass
};

/// In order of rank. Pass a tied parameter once. REQUIRES gradients that are not released, where
/// there are several processes.
std::vector<AdamWShareBytes> adamw_share_bytes(const std::vector<ParameterShape>& parameters,
                                               const AdamWOptions& options,
                                               const AdamWShare& share);

}  // namespace halftone
