// SPDX-License-Identifier: Apache-2.0
// AdamW's memory layout: the place of each parameter and its states, computed from shapes alone.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "halftone/optim/adamw_options.h"
#include "halftone/optim/fused_optimizer.h"
#include "halftone/optim/parameter_arena.h"

namespace halftone {

/// Parameters that also have their states alike.
struct AdamWBufferLayout : ArenaBufferLayout {
  torch::ScalarType moments = torch::kFloat;  // kByte: codes, with an fp32 scale for 256 of them
  std::optional<torch::ScalarType> master_low;
};

/// Whether a parameter has less than two dimensions (a norm, a bias) or 4096 elements: what it
/// costs is nothing beside the others, so it is kept in full.
bool is_small_parameter(at::IntArrayRef sizes);

/// Elements that a range of a buffer's states takes: blocks of codes begin with a range, so that no
/// block has two parameters.
std::int64_t in_whole_code_blocks(std::int64_t elements);

std::vector<AdamWBufferLayout> adamw_layout(const std::vector<ParameterShape>& parameters,
                                            const AdamWOptions& options);

/// Elements whose states are in memory at once where they lie in a file: whole blocks of moments.
constexpr std::int64_t kOffloadChunk = std::int64_t{1} << 22U;

/// Adds the moments and masters of so many elements of a buffer.
void add_state_bytes(const AdamWBufferLayout& layout, std::int64_t elements, OptimizerBytes& bytes);

/// The bytes that an AdamW over these parameters would allocate. Pass a tied parameter once.
OptimizerBytes adamw_bytes(const std::vector<ParameterShape>& parameters,
                           const AdamWOptions& options);

/// The most bytes of offloaded states that a step holds in memory at once; 0 without offloading.
std::int64_t offload_chunk_bytes(const std::vector<ParameterShape>& parameters,
                                 const AdamWOptions& options);

}  // namespace halftone
