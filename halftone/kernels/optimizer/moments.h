// SPDX-License-Identifier: Apache-2.0
// Adam's moments in 8 bits, block by block (Dettmers et al. 2021, arXiv:2110.02861): each block of
// 256 elements has an fp32 scale, its largest magnitude, and each element the code of a number in
// [-1, 1] from a map that spans seven decades. The second moment is stored as its square root, as
// in FlashOptim (arXiv:2602.23349): the root is what divides the update, and one map then reaches
// as far down for both moments. Stored as it is, exp_avg_sq would be 0 for an element whose
// gradients are 1/2500 of the block's largest, with an exp_avg that is not.
#pragma once

#include <torch/types.h>

#include <cstdint>

namespace halftone {

enum class Moment { kFirst, kSecond };  // exp_avg, exp_avg_sq

/// Scales of n elements: one for each block of 256, the last of which may be shorter.
std::int64_t moment_scales(std::int64_t n);

/// The 256 values that codes stand for, of scale 1, in fp32: exp_avg's, or those of the root of
/// exp_avg_sq. Byte 0 is 0; byte 256 - k of the signed map is the
/// negative of byte k, and there is no -1.
torch::Tensor dynamic_map(Moment moment);

/// `values` (n), fp32, as `codes` (n), uint8, and `scales` (moment_scales(n)), fp32: for each
/// element the code whose value is nearest to element / scale, away from 0 between two. A block
/// with an inf or a nan decodes to nan, one whose scale is below the least normal number to 0.
void encode_moments_(const torch::Tensor& values, Moment moment, const torch::Tensor& codes,
                     const torch::Tensor& scales);

/// Back to fp32 (n).
torch::Tensor decoded_moments(const torch::Tensor& codes, const torch::Tensor& scales,
                              Moment moment);

/// The definitions, in plain ATen operations.
void encode_moments_reference_(const torch::Tensor& values, Moment moment,
                               const torch::Tensor& codes, const torch::Tensor& scales);
torch::Tensor decoded_moments_reference(const torch::Tensor& codes, const torch::Tensor& scales,
                                        Moment moment);

/// IEEE's square root. LibTorch's fp32 one on the CPU is now and then one bit off.
torch::Tensor exact_sqrt(const torch::Tensor& x);

}  // namespace halftone
