// SPDX-License-Identifier: Apache-2.0
#include "halftone/kernels/gemm/matvec.h"

#include <ATen/Parallel.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linear.h>

#include <algorithm>

#include "halftone/core/error.h"
#include "halftone/kernels/common/fused_kernels.h"
#include "halftone/kernels/common/kernel_type_impl.h"
#include "halftone/kernels/common/matrix_rows_impl.h"
#include "halftone/kernels/common/operator_impl.h"
#include "halftone/kernels/gemm/matvec_impl.h"

namespace halftone {
namespace {

using torch::ScalarType;
using torch::Tensor;

std::int64_t row_count(const Tensor& x) {
  return c10::multiply_integers(x.sizes().slice(0, x.dim() - 1));
}

/// The values of x rounded to `dtype`, dense.
std::vector<float> rounded_rows(const Tensor& x, ScalarType dtype) {
  const Tensor rounded = x.to(dtype).contiguous();
  std::vector<float> rows(static_cast<std::size_t>(x.numel()));
  widen(rounded.const_data_ptr(), kernel_type(dtype), x.numel(), rows.data());
  return rows;
}

std::int64_t checked_height(const Tensor& x, at::TensorList weights) {
  std::int64_t height = 0;
  for (const Tensor& weight : weights) {
    HALFTONE_CHECK(weight.size(1) == x.size(-1),
                   "[matvec] expected x (..., in) and weight (out, in), got ", x.sizes(), " and ",
                   weight.sizes());
    height += weight.size(0);
  }
  return height;
}

Tensor matvec_by_definition(const Tensor& x, at::TensorList weights, ScalarType dtype) {
  std::vector<Tensor> products;
  for (const Tensor& weight : weights)
    products.push_back(at::linear(x.to(dtype), weight.to(dtype)));
  return at::cat(products, -1);
}

Tensor matvec_buffer(const Tensor& x, at::TensorList weights, ScalarType dtype) {
  return at::empty(with_last(x, checked_height(x, weights)), x.options().dtype(dtype));
}

Tensor matvec_cpu(const Tensor& x, at::TensorList weights, ScalarType dtype) {
  HALFTONE_CHECK(takes_matvec(x, weights.vec(), dtype),
                 "[matvec] expected what takes_matvec() accepts, got an x of ", x.sizes(), " ",
                 x.scalar_type());
  const std::vector<float> rows = rounded_rows(x, dtype);
  const Tensor out = matvec_buffer(x, weights, dtype);
  const std::int64_t height = out.size(-1);
  const MatvecOperands operands{.x = rows.data(),
                                .rows = row_count(x),
                                .columns = x.size(-1),
                                .product_type = kernel_type(dtype),
                                .out_type = kernel_type(dtype)};
  auto* target = static_cast<char*>(out.mutable_data_ptr());
  constexpr std::int64_t kGrain = 65536;  // weights that are worth a thread
  const std::int64_t grain = kGrain / std::max(x.size(-1), std::int64_t{1}) + 1;
  // A thread's share of the outputs may span several weights: one region is enough for all.
  at::parallel_for(0, height, grain, [&](std::int64_t begin, std::int64_t end) {
    std::int64_t first = 0;
    for (const Tensor& weight : weights) {
      const std::int64_t from = std::max(begin - first, std::int64_t{0});
      const std::int64_t to = std::min(end - first, weight.size(0));
      MatvecOperands part = operands;
      part.weight = weight.const_data_ptr();
      part.stride = weight.stride(0);
      part.weight_type = kernel_type(weight.scalar_type());
      if (from < to)
        matvec_range(part, from, to, target + first * static_cast<std::int64_t>(out.element_size()),
                     height);
      first += weight.size(0);
    }
  });
  return out;
}

const Operator<Tensor(const Tensor&, at::TensorList, ScalarType)> matvec_operator(
    "matvec(Tensor x, Tensor[] weights, ScalarType dtype) -> Tensor",
    {.reference = matvec_by_definition, .cpu = matvec_cpu, .meta = matvec_buffer});

}  // namespace

bool takes_matvec(const Tensor& x, const std::vector<Tensor>& weights, ScalarType dtype) {
  if (torch::GradMode::is_enabled() || !is_fused(FusedKernel::kMatvec) || !has_kernel_type(dtype) ||
      !is_simd_operand(x))
    return false;
  const std::int64_t rows = row_count(x);
  return rows >= 1 && rows <= kMaxMatvecRows &&
         std::all_of(weights.begin(), weights.end(), [&](const Tensor& weight) {
           const ScalarType type = weight.scalar_type();
           const bool is_exact = dtype == torch::kFloat && has_kernel_type(type);
           return (type == dtype || type == torch::kFloat || is_exact) && weight.dim() == 2 &&
                  weight.stride(1) == 1;
         });
}

Tensor matvec(const Tensor& x, const std::vector<Tensor>& weights, ScalarType dtype) {
  return matvec_operator(x, weights, dtype);
}

}  // namespace halftone
