// SPDX-License-Identifier: Apache-2.0
// The error of rounding to a format of unlimited range, as random numbers: what a tolerance is
// derived from.
#pragma once

#include <ATen/core/Generator.h>
#include <torch/types.h>

#include <cstdint>

#include "halftone/diagnostics/compare/number_format.h"

namespace halftone {

class RoundingNoise {
 public:
  RoundingNoise(std::uint64_t seed);

  /// Adds to each element of `tensor` (fp32, dense) what rounding to nearest would, in place: an
  /// error that is uniform and has the root mean square of rounding numbers whose mantissas are
  /// spread evenly over a power of two (Benford). A format of integers rounds an element by a step
  /// of the largest value in its row (..., last) or its column, whichever is larger: a matmul's
  /// operand has one scale along the dimension that is summed over, which differs between the
  /// forward and the backward pass. `stochastic`: rounding up or down at random.
  void add_to(const torch::Tensor& tensor, const NumberFormat& format, bool stochastic = false);

 private:
  torch::Tensor uniform(const torch::Tensor& like);  // in [-1, 1)

  at::Generator generator_;  // of the CPU
};

}  // namespace halftone
