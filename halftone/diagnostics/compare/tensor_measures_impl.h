// SPDX-License-Identifier: Apache-2.0
// The figures of a TensorComparison, from two tensors.
#pragma once

#include <torch/types.h>

#include <vector>

#include "halftone/diagnostics/compare/compare.h"
#include "halftone/diagnostics/compare/number_format.h"

namespace halftone {

/// |a - b| / |b| in the 2-norm over the elements that are finite in both, in fp64; 0 where both are
/// zero, inf where only b is, and where none of b's finite values is finite in a. Of one shape.
double relative_error(const torch::Tensor& a, const torch::Tensor& b);

/// How many of the finite elements, zero left out, lie in 2^(first + i) <= |x| < 2^(first + i + 1),
/// and the sum of their squares. Values below 2^-200 count as 2^-200.
struct MagnitudeSpectrum {
  int first = 0;
  std::vector<double> counts;
  std::vector<double> energy;

  /// The relative error (2-norm) that storing adds to that of rounding normal numbers when the
  /// elements are multiplied by 2^scale first: what is flushed to zero, and the coarse steps of
  /// subnormal numbers, whose error is taken for uniform.
  double error_below_normal(const NumberFormat& format, int scale) const;
};
MagnitudeSpectrum magnitude_spectrum(const torch::Tensor& values);

/// Fills in what depends on the values: `judged` and `reference` of one shape, both without the
/// loss scale. `format`: that the judged precision computes in; `scale`: the loss scale for
/// gradients, else 1. Returns the 2-norm of what is zero in `judged` alone, over that of all.
double measure(TensorComparison& comparison, const torch::Tensor& judged,
               const torch::Tensor& reference, const NumberFormat& format, double scale);

ExponentHistogram exponents_of(const torch::Tensor& values);

}  // namespace halftone
