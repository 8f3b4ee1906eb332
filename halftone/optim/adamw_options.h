// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>

#include "halftone/core/process_group.h"
#include "halftone/optim/parameter_arena.h"

namespace halftone {

/// The part of a bf16 weight's fp32 master that is stored beside it: nothing, all 16 missing bits
/// (the update is then fp32's, bit for bit), or 8 of them. A weight with a master is its
/// truncation, not its rounding.
enum class MasterWeights { kNone, kSplit16, kSplit8 };

/// Of Adam's moments: 4 bytes each; 2, rounded stochastically, because an exp_avg_sq in bf16 that
/// is rounded to nearest stands still; or 1 and a scale for 256 elements
/// (kernels/optimizer/moments.h). Parameters of less than two dimensions or 4096 elements have fp32
/// moments in any case.
enum class MomentStorage { kFloat32, kBFloat16, kInt8 };

struct AdamWOptions {
  double lr = 1e-3;
  double beta1 = 0.9;
  double beta2 = 0.999;
  double eps = 1e-8;
  double weight_decay = 0.01;
  // Of bfloat16 weights without a master and of the 24 bits of kSplit8; else to nearest.
  bool stochastic_rounding = false;
  std::uint64_t seed = 0;                       // of the rounding, the moments' too
  MasterWeights master = MasterWeights::kNone;  // of bfloat16 weights; others have none
  MomentStorage moments = MomentStorage::kFloat32;
  bool fp32_gradients = false;  // of 16-bit weights: autograd adds up in fp32
  // No buffer for gradients: they stay where autograd puts them until step_parameter(), or a step,
  // has taken them in.
  bool release_gradients = false;
  // Folder on a disk where moments and masters lie in a file instead of memory, with the same bits;
  // empty: in memory. On the CPU only.
  std::filesystem::path offload;
  // Processes that update a part each and keep the moments and masters of that part alone, with
  // the same bits; all of them take each step. Null: this process has all.
  std::shared_ptr<ProcessGroup> shard_over;
  // Of gradients as well each has the sums of its part alone (GradientReducer).
  bool shard_gradients = false;
  // Of weights as well: a step leaves each with the new weights of its part alone, and whoever
  // computes with them brings the others' (WeightShards).
  bool shard_weights = false;
  // Of gradients that travel together between processes, at least.
  std::int64_t bucket_bytes = kBucketBytes;
};

}  // namespace halftone
