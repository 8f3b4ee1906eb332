// SPDX-License-Identifier: Apache-2.0
// The switches between this library's kernels and their references in ATen: to find out which of
// them makes a difference that should not be.
#pragma once

#include <string>
#include <string_view>

namespace halftone {

/// The operations that have a CPU kernel and a reference in ATen. The comments are the words of
/// HALFTONE_REFERENCE_KERNELS.
enum class FusedKernel {
  kAdamW,               // adamw
  kCrossEntropy,        // cross_entropy
  kDecodeAttention,     // decode_attention
  kEmbedding,           // embedding: its gradient
  kGradientStats,       // gradient_stats
  kLinearCrossEntropy,  // linear_cross_entropy
  kMatvec,              // matvec
  kMergedLinear,        // merged_linear
  kRmsNorm,             // rms_norm
  kRotaryAttention,     // rotary_attention
  kSwiglu,              // swiglu
  kWeightGrad,          // weight_grad: added to .grad by the matmul
};

/// Whether `kernel` is used where it can be: unless the environment variable
/// HALFTONE_REFERENCE_KERNELS, read at the first call, or set_reference_kernels() names it.
/// Thread-safe. Throws UserError for a word in the variable that is none of the above.
bool is_fused(FusedKernel kernel);

/// Has the kernels that `names` lists ("rms_norm,swiglu", "all", "") computed by their references
/// from now on, and all others fused. Throws UserError for a word that is none of them.
void set_reference_kernels(std::string_view names);

/// Throws UserError where set_reference_kernels(names) would.
void check_reference_kernels(std::string_view names);

/// set_reference_kernels(names), unless the variable is set, which goes first: for configurations.
void configure_reference_kernels(std::string_view names);

/// Those that are computed by their references, as set_reference_kernels() takes them.
std::string reference_kernels();

}  // namespace halftone
