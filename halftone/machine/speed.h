// SPDX-License-Identifier: Apache-2.0
// How fast this machine's CPU computes and reads, measured with the threads that LibTorch has
// (at::get_num_threads()). Each figure is the best of several rounds: what the machine can do while
// nothing else runs. Random generators are left alone.
#pragma once

#include <cstdint>
#include <vector>

#include "halftone/kernels/gemm/compute_type.h"

namespace halftone {

/// fp32 multiply-adds from registers alone, two flops each: the ceiling for fp32 matmuls.
double peak_fp32_gflops();

/// Bytes read and written per second by a[i] = b[i] + 3 c[i] on arrays of 64 MiB (the triad of the
/// STREAM benchmark; the reading that a store brings with it does not count, as there).
double triad_bytes_per_s();

/// One linear layer in a training step of a precision of fp32 weights: its matmul forward and both
/// backward, with all that the precision's operands need (rounding, widening, quantising), as the
/// library computes them.
struct LayerSpeed {
  ComputeType compute = ComputeType::kFloat32;
  double seconds = 0;
  double gflops = 0;  ///< 6 tokens in out / seconds
};

/// The layer's shape: a row for each of 4 x 256 tokens, the feed-forward width of minimind-26m.
struct LayerShape {
  std::int64_t tokens = 1024;
  std::int64_t in = 512;
  std::int64_t out = 1408;
};

/// Of each format, in their order; their rounds take turns. There are at most `rounds`: they end
/// when a quarter of them in a row, but two or more, have made no format faster by 2 %.
std::vector<LayerSpeed> layer_speeds(const LayerShape& shape = {}, int rounds = 8,
                                     const std::vector<ComputeType>& formats = compute_types());

}  // namespace halftone
