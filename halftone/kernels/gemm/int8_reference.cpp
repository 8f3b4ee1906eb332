// SPDX-License-Identifier: Apache-2.0
#include "halftone/kernels/gemm/int8_reference.h"

#include <ATen/ops/_int_mm.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

#include "halftone/kernels/common/stochastic_rounding.h"

namespace halftone {
namespace {

using torch::Tensor;

/// Uniform in [0, 1), one for each element of `matrix`.
Tensor uniform_for(const Tensor& matrix, std::uint64_t stream) {
  const bool by_columns = matrix.stride(1) != 1 && matrix.stride(0) == 1;
  const Tensor bits = rounding_words(stream, matrix.numel(), matrix.device());
  const Tensor shaped = by_columns ? bits.view({matrix.size(1), matrix.size(0)}).t()
                                   : bits.view({matrix.size(0), matrix.size(1)});
  return shaped.bitwise_right_shift(8).to(torch::kFloat) * 0x1p-24;
}

/// cuBLAS takes int8 matrices of more than 16 rows, and sizes that are multiples of 8.
Tensor padded(const Tensor& integers) {
  const auto missing = [](std::int64_t size, std::int64_t least) {
    return std::max((size + 7) / 8 * 8, least) - size;
  };
  return at::constant_pad_nd(integers,
                             {0, missing(integers.size(1), 8), 0, missing(integers.size(0), 24)});
}

}  // namespace

ReferenceInt8 quantize_reference(const Tensor& matrix, double largest,
                                 const Int8Rounding& rounding) {
  if (matrix.size(1) == 0)
    return {.integers = matrix.to(torch::kChar),
            .scales = at::zeros({matrix.size(0)}, matrix.options())};
  const Tensor magnitude = matrix.abs().amax(1, /*keepdim=*/true);
  const Tensor finite = magnitude.isfinite();
  const Tensor top = at::where(finite, magnitude, 1.0F).clamp_min(1e-30);
  const Tensor scaled = at::where(finite, matrix, 0.0F) * (largest / top);
  const Tensor rounded = rounding.stochastic
                             ? (scaled + uniform_for(matrix, rounding.stream)).floor()
                             : scaled.round();
  return {.integers = rounded.clamp(-largest, largest).to(torch::kChar),
          .scales =
              at::where(finite, top / largest, std::numeric_limits<float>::quiet_NaN()).squeeze(1)};
}

Tensor int8_gemm_reference(const ReferenceInt8& left, const ReferenceInt8& right) {
  const std::int64_t rows = left.scales.size(0), columns = right.scales.size(0);
  if (rows == 0 || columns == 0 || left.integers.size(1) == 0)
    return at::zeros({rows, columns}, left.scales.options());
  const Tensor sums = at::_int_mm(padded(left.integers), padded(right.integers).t());
  return sums.narrow(0, 0, rows).narrow(1, 0, columns).to(torch::kFloat) *
         (right.scales.unsqueeze(0) * left.scales.unsqueeze(1));
}

}  // namespace halftone
