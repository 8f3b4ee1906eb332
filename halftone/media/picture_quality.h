// SPDX-License-Identifier: Apache-2.0
// How far pictures are from others: what a precision changed, or what a model got wrong.
#pragma once

#include <torch/types.h>

namespace halftone {

/// Peak signal-to-noise ratio in dB of each pair of pictures: -10 log10 of the mean squared
/// difference. `pictures` and `reference` (N, C, H, W), floating in 0..1, computed in fp64; returns
/// (N) fp64, inf for equal ones, without a graph. Throws c10::Error for other dtypes and shapes
/// that differ.
torch::Tensor peak_signal_to_noise(const torch::Tensor& pictures, const torch::Tensor& reference);

/// Structural similarity of each pair (Wang et al. 2004), as peak_signal_to_noise() takes them: of
/// windows of 11 by 11 with Gaussian weights of deviation 1.5 that lie inside of the picture, with
/// K1 = 0.01 and K2 = 0.03; the mean over windows and channels, (N) fp64, 1 for equal ones. Throws
/// c10::Error for sides below 11 as well.
torch::Tensor structural_similarity(const torch::Tensor& pictures, const torch::Tensor& reference);

}  // namespace halftone
