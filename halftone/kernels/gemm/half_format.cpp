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

constexpr double kWide = 4;  // bytes of an element
constexpr double kNarrow = 2;

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

double HalfMatmulFormat::forward_bytes(const MatmulShape& shape,
                                       const LayerDtypes& /*layer*/) const {
  if (cpu_paths().forward == GemmBackend::kNative) return 0;
  return kWide * (shape.rows * shape.in + shape.in * shape.out + shape.rows * shape.out);
}

double HalfMatmulFormat::backward_bytes(const MatmulShape& shape, const LayerDtypes& layer) const {
  const GemmBackends ways = cpu_paths();
  const double elements = shape.in * shape.out;
  double input = 0;
  if (ways.input_gradient == GemmBackend::kUpcast)
    input = kWide * (shape.rows * shape.out + elements + shape.rows * shape.in);
  const bool fp32_weights = layer.weight == torch::kFloat;
  double weight = 0;
  if (ways.weight_gradient == GemmBackend::kNative)
    // A sum of two dtypes upcasts one of them.
    weight = (kNarrow + (fp32_weights ? kWide : 0)) * added_at_once(elements);
  else
    weight = kWide * shape.rows * (shape.out + shape.in) +
             (fp32_weights ? 0 : (kWide + kNarrow) * elements);
  return std::max(input, weight);
}

double HalfMatmulFormat::lm_head_bytes(const MatmulShape& chunk, const LayerDtypes& layer) const {
  const GemmBackends ways = cpu_paths();
  const double elements = chunk.in * chunk.out;
  double bytes = 0;
  if (layer.input != dtype_) bytes += kNarrow * chunk.rows * chunk.in;
  if (!layer.cached) bytes += kept_bytes(layer) * elements;
  const auto any = {ways.forward, ways.input_gradient, ways.weight_gradient};
  if (std::find(any.begin(), any.end(), GemmBackend::kUpcast) != any.end())
    bytes += kWide * (elements + chunk.rows * (chunk.out + chunk.in));
  if (ways.input_gradient == GemmBackend::kNative) bytes += kNarrow * chunk.rows * chunk.in;
  if (ways.weight_gradient == GemmBackend::kNative)
    bytes += (kNarrow + kWide) * added_at_once(elements);
  return bytes;
}

double HalfMatmulFormat::kept_bytes(const LayerDtypes& layer) const {
  return layer.weight == dtype_ ? 0 : kNarrow;
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
