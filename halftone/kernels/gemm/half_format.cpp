// SPDX-License-Identifier: Apache-2.0
// bf16 and fp16: operands rounded once, by value; products as cpu_gemm_config() says. What is
// upcast is upcast once for all matmuls that take it.
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cstdint>
#include <utility>

#include "halftone/kernels/common/host_value_impl.h"
#include "halftone/kernels/common/merged_weights_impl.h"
#include "halftone/kernels/gemm/compute_type.h"
#include "halftone/kernels/gemm/cpu_gemm_config.h"
#include "halftone/kernels/gemm/gemm_half.h"
#include "halftone/kernels/gemm/half_format_impl.h"

namespace halftone {
namespace {

using torch::ScalarType;
using torch::Tensor;

/// The weights below each other, rounded to `dtype`.
Tensor round_weights(at::TensorList weights, ScalarType dtype) {
  if (const Tensor merged = merged_view(weights); merged.defined()) return merged.to(dtype);
  const Tensor merged = at::empty({total_rows(weights), weights.front().size(1)},
                                  weights.front().options().dtype(dtype));
  std::int64_t row = 0;
  for (const Tensor& weight : weights) {
    merged.narrow(0, row, weight.size(0)).copy_(weight);
    row += weight.size(0);
  }
  return merged;
}

double largest_magnitude(const Tensor& matrix) {
  return matrix.numel() == 0 ? 0.0 : host_value(matrix.abs().max());
}

}  // namespace

Tensor HalfMatrix::in(GemmBackend path) {
  if (path == GemmBackend::kNative) return narrow;
  if (wide_.defined()) return wide_;
  const Tensor wide = narrow.to(torch::kFloat);
  if (keeps_wide_) wide_ = wide;
  return wide;
}

double HalfMatrix::largest() {
  if (!largest_) largest_ = largest_magnitude(narrow);
  return *largest_;
}

OperandPtr HalfMatmulFormat::input(const Tensor& x) const {
  return std::make_shared<HalfMatrix>(x.to(dtype_), /*keeps_wide=*/true);
}

OperandPtr HalfMatmulFormat::weight(at::TensorList weights, const std::vector<Tensor>& kept) const {
  return std::make_shared<HalfMatrix>(kept.empty() ? round_weights(weights, dtype_) : kept.front(),
                                      /*keeps_wide=*/false);
}

OperandPtr HalfMatmulFormat::gradient(const Tensor& g, const GradientStreams& /*streams*/) const {
  return std::make_shared<HalfMatrix>(g.to(dtype_), /*keeps_wide=*/true);
}

Tensor HalfMatmulFormat::forward(Operand& x, Operand& weight) const {
  const GemmBackend path = paths(x).forward;
  return gemm_half(half(x).in(path), half(weight).in(path).t(), dtype_, path);
}

Tensor HalfMatmulFormat::input_gradient(Operand& g, Operand& weight, ScalarType out) const {
  const GemmBackend path = paths(g).input_gradient;
  return gemm_half(half(g).in(path), half(weight).in(path), out, path);
}

Tensor HalfMatmulFormat::weight_gradient(Operand& g, Operand& x, ScalarType out) const {
  const GemmBackend path = paths(g).weight_gradient;
  const Tensor left = half(g).in(path).t(), right = half(x).in(path);
  if (path == GemmBackend::kUpcast || out == dtype_ || left.size(0) * right.size(1) <= kLargeSum)
    return gemm_half(left, right, out, path);
  // Rounded to 16 bits and then upcast: in blocks, which saves memory.
  const Tensor sum = at::zeros({left.size(0), right.size(1)}, right.options().dtype(out));
  gemm_half_add(sum, left, right, path);
  return sum;
}

void HalfMatmulFormat::add_weight_gradient(Operand& g, Operand& x, const Tensor& sum,
                                           double factor) const {
  const GemmBackend path = paths(g).weight_gradient;
  gemm_half_add(sum, half(g).in(path).t(), half(x).in(path), path, factor);
}

std::optional<double> HalfMatmulFormat::gradient_growth(Operand& x, Operand& weight) const {
  if (dtype_ != torch::kHalf) return std::nullopt;
  const GemmBackends ways = paths(x);
  double growth = 1.0;
  if (ways.input_gradient == GemmBackend::kNative)
    growth = std::max(growth, 2 * half(weight).largest());
  if (ways.weight_gradient == GemmBackend::kNative)
    growth = std::max(growth, static_cast<double>(half(x).narrow.size(0)) * half(x).largest());
  return growth;
}

int HalfMatmulFormat::kept_kernels(std::int64_t rows, std::int64_t in, std::int64_t out) const {
  const GemmBackends ways = cpu_paths();
  const bool keeps_upcast = goes_to_onednn(rows * in * out);
  int kept = 0;
  for (const GemmBackend way : {ways.forward, ways.input_gradient, ways.weight_gradient})
    if (way == GemmBackend::kNative || keeps_upcast) ++kept;
  return kept;
}

GemmBackends HalfMatmulFormat::cpu_paths() const { return cpu_gemm_config().of(dtype_); }

GemmBackends HalfMatmulFormat::paths(Operand& operand) const {
  const Tensor& matrix = half(operand).narrow;
  if (matrix.is_cpu() || matrix.is_meta()) return cpu_paths();
  // Other devices have nothing to choose from, and nothing of a CPU is measured for them.
  return {.forward = GemmBackend::kNative,
          .input_gradient = GemmBackend::kNative,
          .weight_gradient = GemmBackend::kNative};
}

const MatmulFormat& bfloat16_format() {
  static const HalfMatmulFormat format(torch::kBFloat16);
  return format;
}

const MatmulFormat& float16_format() {
  static const HalfMatmulFormat format(torch::kHalf);
  return format;
}

}  // namespace halftone
