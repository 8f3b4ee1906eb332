// SPDX-License-Identifier: Apache-2.0
// What processes that train together wait for each other's numbers.
#pragma once

#include <cstdint>

#include "halftone/optim/adamw_share.h"
#include "halftone/plan/exchange_speed.h"

namespace halftone {

/// Of an optimizer step of one process.
struct ExchangeSeconds {
  double all = 0;
  double exposed = 0;  // of these, what no backward pass hides
};

/// The backward passes of a step.
struct BackwardPasses {
  double seconds = 0;              // of one
  std::int64_t micro_batches = 1;  // of the step
};

/// A collective operation of W processes takes each of them W - 1 messages and (W - 1) / W of the
/// bytes, by the alpha-beta model, and the copying and adding of all bytes. Gradients go bucket by
/// bucket: all_to_all, and all_gather of the sums unless each process keeps its own. The first
/// bucket is complete when 1 / buckets of the backward pass is over, the last with its end:
///
///   exposed = max(last bucket, all buckets - (1 - 1 / buckets) backward pass)
///
/// The gradients go in the last micro-batch; in each where they are shared. New weights, where
/// states are shared, come behind the update, bucket by bucket and not hidden, and so do the small
/// messages by which processes agree. Where weights are shared, those of blocks come twice in each
/// micro-batch instead, one block ahead, and have the same backward pass to hide behind; what
/// belongs to no block comes behind the update still:
///
///   exposed = max(last bucket + 2 buckets of weights,
///                 all buckets + 2 weights of blocks - (1 - 1 / buckets) backward pass)
ExchangeSeconds exchange_seconds(const AdamWShare& share, const AdamWShareBytes& bytes,
                                 const ExchangeSpeed& speed, const BackwardPasses& passes);

}  // namespace halftone
