// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "halftone/optim/adamw_options.h"
#include "halftone/optim/fused_optimizer.h"
#include "halftone/optim/optimizer_in_backward.h"
#include "halftone/precision/policy.h"

namespace halftone {

/// The user's choice: a policy by name, and parts that override it ("auto": as the policy says).
/// docs/config.md lists the words.
struct MemoryOptions {
  std::string memory = "standard";         // "lean", "leanest"
  std::string master_weights = "auto";     // "fp32", "split16", "split8", "none"
  std::string gradients = "auto";          // "fp32", "bf16"
  std::string moments = "auto";            // "fp32", "bf16", "int8"
  std::string recompute = "auto";          // "none", "blocks"
  std::string release_gradients = "auto";  // "on", "off"
  std::string clip_mode = "auto";          // "exact", "previous"
  std::string rounding = "stochastic";     // of the updates of bf16 weights; or "nearest"
  std::string offload;                     // AdamWOptions::offload
};

/// A part of a memory policy that is the optimizer's, as keys and words of MemoryOptions.
struct MemoryPart {
  std::string asked;    // "moments int8"
  std::string without;  // what is to be chosen for an optimizer that can't: "moments fp32"
};

/// How a run keeps weights, gradients and optimizer state, and what of the forward pass. The
/// arithmetic is the precision's in all of them.
struct MemoryPolicy {
  std::string name = "standard";
  bool bf16_weights = false;    // matrices, where the precision has fp32
  bool fp32_gradients = false;  // of those
  MasterWeights master = MasterWeights::kNone;
  MomentStorage moments = MomentStorage::kFloat32;
  bool stochastic_rounding = false;  // of updated bf16 weights (and of the 24 bits of kSplit8)
  bool recompute_blocks = false;     // nn/recompute.h
  bool release_gradients = false;    // optim/optimizer_in_backward.h
  ClipMode clip_mode = ClipMode::kExact;
  std::filesystem::path offload;  // of the optimizer's states; empty: they are in memory

  /// `own` and what this policy asks of the optimizer beside it. Throws UserError where both ask
  /// for something and differ.
  AdamWOptions adamw(AdamWOptions own = {}) const;
  /// What this policy asks of the optimizer and one of these traits lacks.
  std::vector<MemoryPart> missing_in(const OptimizerTraits& traits) const;
};

const std::vector<std::string>& memory_names();

/// Resolves `choice` for `precision`. Throws UserError for parts that exclude each other; it names
/// the reason and the alternative.
MemoryPolicy memory_policy(const MemoryOptions& choice, const PrecisionPolicy& precision);

}  // namespace halftone
