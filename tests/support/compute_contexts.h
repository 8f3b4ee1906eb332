// SPDX-License-Identifier: Apache-2.0
// The present ComputeContext with one member changed, for a scope of a test.
#pragma once

#include <cstdint>
#include <memory>

#include "halftone/kernels/linear/compute_context.h"
#include "halftone/kernels/linear/weight_cache.h"

namespace halftone::test {

inline ComputeContext computing_in(ComputeType type, std::uint64_t seed = 0,
                                   std::uint64_t pass = 0) {
  ComputeContext context = compute_context();
  context.compute = type;
  context.streams = RoundingStreams(seed, pass);
  return context;
}

inline ComputeContext recomputing_blocks(bool recompute = true) {
  ComputeContext context = compute_context();
  context.recompute_blocks = recompute;
  return context;
}

inline ComputeContext accumulating_in_place() {
  ComputeContext context = compute_context();
  context.fused_grad_accumulation = true;
  return context;
}

inline ComputeContext caching_weights(bool cache = true) {
  ComputeContext context = compute_context();
  context.weight_cache = cache ? std::make_shared<WeightCache>() : nullptr;
  return context;
}

}  // namespace halftone::test
