// SPDX-License-Identifier: Apache-2.0
// Predicts the memory of a run on the CPU before anything is allocated.
#pragma once

#include <cstdint>
#include <string>

#include "halftone/models/model_config.h"
#include "halftone/optim/adamw_share.h"
#include "halftone/plan/step_memory.h"

namespace halftone {

/// Resident memory of a training process at its peak, by what it is for.
struct MemoryBytes {
  std::uint64_t weights = 0;
  std::uint64_t gradients = 0;
  // Of the optimizer: moments, and what is kept beside bf16 weights; a chunk of them where they are
  // offloaded.
  std::uint64_t states = 0;
  std::uint64_t activations = 0;
  std::uint64_t workspace = 0;  // converted weights, the head's gradient, batches, unused ends
  std::uint64_t process = 0;    // the program and its libraries
  std::uint64_t disk = 0;       // not memory: the states that are offloaded
  std::uint64_t total() const {
    return weights + gradients + states + activations + workspace + process;
  }
};

/// Of a training of `model`, in the phase of the run that needs the most: while weights are made in
/// fp32 and moved to where the optimizer has them, in a step, or while a checkpoint is written.
/// `process` is what the process takes besides. Where several processes train it together
/// (`share`): of the one that takes most. Its gradients are then those of its part and of two
/// buckets that are complete and not sent yet, if they are shared; the copies that travel are
/// workspace, as far as they take more than the activations that have gone by then, and so is what
/// GradientTree sets aside. Throws UserError for a model that no machine could hold. REQUIRES a
/// recipe that keeps gradients, where there are several processes.
MemoryBytes peak_memory(const ModelConfig& model, const StepShape& shape,
                        const NumericsConfig& recipe, std::uint64_t process,
                        const AdamWShare& share = {});

/// Of the optimizer of the process that takes the most. REQUIRES what peak_memory() does.
AdamWShareBytes largest_share(const ModelConfig& model, const NumericsConfig& recipe,
                              const AdamWShare& share);

/// The bytes of a run beside its model: the resident memory of this process, plus an allowance.
/// Call it after the process has computed something, so that its libraries are in memory. Hands
/// free memory back first.
std::uint64_t process_bytes();

/// The bytes that `memory_budget` allows. "available": this process's memory plus the memory that
/// it can still get without swapping or leaving its control group. "unlimited": the largest number.
/// Else a size that parse_bytes() reads. REQUIRES one of them.
std::uint64_t budget_bytes(const std::string& memory_budget);

}  // namespace halftone
