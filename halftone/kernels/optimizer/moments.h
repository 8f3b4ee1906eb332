// SPDX-License-Identifier: Apache-2.0
// Adam's moments in 8 bits, block by block (Dettmers et al. 2021, arXiv:2110.02861): each block of
// 256 elements has an fp32 scale, its largest magnitude, and each element the code of a number in
// [-1, 1] from a map that spans seven decades. The second moment is stored as its square root, as
// in FlashOptim (arXiv:2602.23349): the root is what divides the update, and one map then reaches
// as far down for both moments. Stored as it is, exp_avg_sq would be 0 for an element whose
// gradients are 1/2500 of the block's largest, with an exp_avg that is not.
//
// Rounding must not make an update larger than any that fp32 moments make. With fp32 moments
// |exp_avg| <= C_t root(exp_avg_sq) after t steps, whatever the gradients (Cauchy-Schwarz), with
//   C_t^2 = (1 - beta1)^2 / (1 - beta2) * (1 + q + ... + q^(t-1)),  q = beta1^2 / beta2.
// A step keeps that bound if it held before, so a root that rounding has left below |exp_avg| / C_t
// is raised to it when it is read. And a root that is not 0 never becomes 0: beside one huge
// gradient the others' updates shrink, instead of growing without a divisor.
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
/// element the code whose value is nearest to element / scale, away from 0 between two; for a root
/// above 0 at least the code after that of 0. A block with a nan, or an inf in exp_avg, decodes to
/// nan, one whose scale is below the least normal number to 0. An exp_avg_sq of inf counts as the
/// largest number: the squares of finite gradients may overflow.
void encode_moments_(const torch::Tensor& values, Moment moment, const torch::Tensor& codes,
                     const torch::Tensor& scales);

/// Back to fp32 (n).
torch::Tensor decoded_moments(const torch::Tensor& codes, const torch::Tensor& scales,
                              Moment moment);

/// 1 / C_t, the least root of exp_avg_sq beside an exp_avg of 1 after `steps` (t, a scalar) steps:
/// an fp64 scalar. 0 where there is no bound: before the first step, or when it is beyond fp64.
torch::Tensor least_root(const torch::Tensor& steps, double beta1, double beta2);

/// exp_avg_sq (n), fp32, from its codes beside exp_avg (n), fp32, as a step takes it: not below
/// (|exp_avg| * least_root)^2, rounded to fp32.
torch::Tensor decoded_exp_avg_sq(const torch::Tensor& codes, const torch::Tensor& scales,
                                 const torch::Tensor& exp_avg, const torch::Tensor& least_root);

/// The definitions, in plain ATen operations.
void encode_moments_reference_(const torch::Tensor& values, Moment moment,
                               const torch::Tensor& codes, const torch::Tensor& scales);
torch::Tensor decoded_moments_reference(const torch::Tensor& codes, const torch::Tensor& scales,
                                        Moment moment);

/// IEEE's square root. LibTorch's fp32 one on the CPU is now and then one bit off.
torch::Tensor exact_sqrt(const torch::Tensor& x);

}  // namespace halftone
