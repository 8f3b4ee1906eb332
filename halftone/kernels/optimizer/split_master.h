// SPDX-License-Identifier: Apache-2.0
// Master weights in two parts (as in IPEX's split SGD): the bfloat16 weight is the top half of an
// fp32 number, cut off and not rounded, and what was cut off lies beside it. 16 bits of it make the
// master exact; 8 keep the upper half of them, a number of 24 bits (the size that FlashOptim,
// arXiv:2602.23349, found to be enough).
#pragma once

#include <torch/types.h>

#include <cstdint>

namespace halftone {

struct SplitMaster {
  torch::Tensor weights;     // bfloat16
  torch::Tensor master_low;  // of the weights' shape; int16: all of the lower half; uint8: its top
};

/// The master in fp32.
torch::Tensor joined_master(const SplitMaster& split);

/// `master`, fp32, in two parts. With `low` uint8 its last 8 bits must be 0.
SplitMaster split_master(const torch::Tensor& master, torch::ScalarType low);

/// fp32 rounded to 24 bits (sign, 8 of exponent, 15 of mantissa), to nearest, ties to even; what is
/// not finite loses its last 8 bits.
torch::Tensor rounded_to_24_bits(const torch::Tensor& master);
/// The same, up or down by the top 8 of 32 random bits for each element (int64).
torch::Tensor rounded_to_24_bits(const torch::Tensor& master, const torch::Tensor& random);

/// The lower parts in another width, for weights that stay as they are: 16 bits from 8 are exact,
/// 8 from 16 are rounded to nearest, ties to even, and stop at 255.
torch::Tensor master_low_as(const torch::Tensor& low, torch::ScalarType dtype);

}  // namespace halftone
