// SPDX-License-Identifier: Apache-2.0
// fp8 (Micikevicius et al. 2022, "FP8 Formats for Deep Learning"): e4m3 for x and W, e5m2 for the
// gradient on its way to x, each matrix with one scale, or one for each row that is summed along.
// The gradient of W is computed in bf16, for it sums over all tokens. Scales are powers of two: to
// multiply by one is exact, and floating-point numbers are as fine in one binade as in the next, so
// no finer scale would round less.
//
// An fp8 number is a bf16 number, also after the division by such a scale. So operands are rounded
// to fp8 and kept as bf16; bf16's matmuls of them are exact but for their sums, which are fp32.
// GPUs that multiply fp8 itself get its bytes.
#include <ATen/ops/_scaled_mm.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/where.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "halftone/core/device.h"
#include "halftone/kernels/common/merged_weights_impl.h"
#include "halftone/kernels/gemm/compute_type.h"
#include "halftone/kernels/gemm/half_format_impl.h"
#include "halftone/kernels/gemm/matmul_format.h"

namespace halftone {
namespace {

using torch::ScalarType;
using torch::Tensor;

constexpr ScalarType kForwardType = torch::kFloat8_e4m3fn;
constexpr ScalarType kGradientType = torch::kFloat8_e5m2;

double largest_number(ScalarType fp8) { return fp8 == kForwardType ? 448.0 : 57344.0; }

enum class Scaling { kTensor, kRow };

/// The largest power of two by which no number of `matrix` leaves the range of `fp8`: a scalar, or
/// (rows, 1), fp32. nan where the numbers are not finite, so that all that comes of them shows
/// that.
Tensor scale_for(const Tensor& matrix, ScalarType fp8, Scaling scaling) {
  constexpr double kSmallest = 0x1p-100;  // smaller numbers may become 0, scales stay finite
  const auto fp32 = matrix.options().dtype(torch::kFloat);
  if (matrix.numel() == 0) return at::ones({}, fp32);
  const Tensor magnitudes = matrix.abs();
  const Tensor largest = scaling == Scaling::kTensor ? magnitudes.amax().to(torch::kFloat)
                                                     : magnitudes.amax(1, true).to(torch::kFloat);
  const Tensor power = (largest_number(fp8) / largest.clamp_min(kSmallest)).log2_().floor_();
  return at::where(largest.isfinite(), power.exp2_(), std::numeric_limits<float>::quiet_NaN());
}

/// A matrix rounded to fp8 as its scale has it: to the nearest, ties to even.
struct Float8Numbers {
  HalfMatrix half;  // the numbers, divided by the scale again
  Tensor scale;

  Tensor bytes(ScalarType fp8) const { return (half.narrow * scale).to(fp8); }
};

Float8Numbers round_to(ScalarType fp8, const Tensor& matrix, Scaling scaling, bool keeps_wide) {
  const Tensor scale = scale_for(matrix, fp8, scaling);
  const double largest = largest_number(fp8);
  // A power of two is a number of every dtype: none of these is wider than it must be.
  const Tensor scaled = (matrix * scale.to(matrix.scalar_type())).clamp_(-largest, largest);
  const Tensor numbers = scaled.to(fp8).to(torch::kBFloat16).div_(scale.to(torch::kBFloat16));
  return {HalfMatrix(numbers, keeps_wide), scale};
}

/// x or g: in fp8 for one matmul, in bf16 for the gradient of the weight.
class Float8Matrix : public Operand {
 public:
  Float8Matrix(const Tensor& matrix, ScalarType fp8, Scaling scaling)
      : bf16_(matrix.to(torch::kBFloat16), /*keeps_wide=*/true), fp8_(fp8), scaling_(scaling) {}

  std::vector<Tensor> kept() const override { return bf16_.kept(); }
  HalfMatrix& bf16() { return bf16_; }
  Float8Numbers& numbers() {
    if (!numbers_) numbers_.emplace(round_to(fp8_, bf16_.narrow, scaling_, /*keeps_wide=*/true));
    return *numbers_;
  }

 private:
  HalfMatrix bf16_;
  ScalarType fp8_;
  Scaling scaling_;
  std::optional<Float8Numbers> numbers_;
};

/// Weights below each other in bf16, each rounded by scales of its own: as if they were multiplied
/// apart. With one scale for a weight, both matmuls take the same numbers, which are kept from one
/// to the other; with a scale for each row that is summed along, each matmul has its own.
class Float8Weights : public Operand {
 public:
  Float8Weights(at::TensorList weights, const std::vector<Tensor>& kept, Scaling scaling)
      : weights_(weights.vec()), scaling_(scaling) {
    if (!kept.empty())
      forward_.emplace(Rounded{HalfMatrix(kept[0], /*keeps_wide=*/false), kept[1]});
  }

  struct Rounded {
    HalfMatrix half;  // (out, in)
    Tensor scales;    // one for each weight
  };

  std::vector<Tensor> kept() const override {
    if (scaling_ == Scaling::kRow || !forward_) return {};
    return {forward_->half.narrow, forward_->scales};
  }
  /// For sums along the inputs.
  Rounded& forward() {
    if (!forward_) forward_.emplace(rounded([](const Tensor& weight) { return weight; }));
    return *forward_;
  }
  /// For sums along the outputs.
  Rounded& backward() {
    if (scaling_ == Scaling::kTensor) return forward();
    if (!backward_) backward_.emplace(rounded([](const Tensor& weight) { return weight.t(); }));
    return *backward_;
  }
  const std::vector<Tensor>& weights() const { return weights_; }

 private:
  /// `oriented` gives a weight or its transpose, whichever has the rows that are summed along.
  Rounded rounded(Tensor (*oriented)(const Tensor&)) const {
    const auto options = weights_.front().options();
    const Tensor all = at::empty({total_rows(weights_), weights_.front().size(1)},
                                 options.dtype(torch::kBFloat16));
    std::vector<Tensor> scales;
    std::int64_t row = 0;
    for (const Tensor& weight : weights_) {
      const Float8Numbers numbers =
          round_to(kForwardType, oriented(weight), scaling_, /*keeps_wide=*/false);
      oriented(all.narrow(0, row, weight.size(0))).copy_(numbers.half.narrow);
      if (scaling_ == Scaling::kTensor) scales.push_back(numbers.scale);
      row += weight.size(0);
    }
    return {HalfMatrix(all, /*keeps_wide=*/false), scales.empty() ? Tensor() : at::stack(scales)};
  }

  std::vector<Tensor> weights_;
  Scaling scaling_;
  std::optional<Rounded> forward_;
  std::optional<Rounded> backward_;
};

/// Whether the device multiplies these matrices as fp8. Ada is the first generation.
bool multiplies_fp8(const Float8Numbers& rows, Float8Weights& weight, Scaling scaling) {
  constexpr int kAda = 89;
  constexpr std::int64_t kMultiple = 16;
  const Tensor& left = rows.half.narrow;
  const auto fits = [](std::int64_t size) { return size > 0 && size % kMultiple == 0; };
  return scaling == Scaling::kTensor && cuda_compute_capability(left.device()) >= kAda &&
         fits(left.size(0)) &&
         std::all_of(weight.weights().begin(), weight.weights().end(),
                     [&](const Tensor& w) { return fits(w.size(0)) && fits(w.size(1)); });
}

/// a b^T by the hardware, in bf16. a (rows, depth) and b (columns, depth) are numbers times their
/// scales.
Tensor multiply_bytes(const Tensor& a, const Tensor& a_scale, const Tensor& b,
                      const Tensor& b_scale) {
  return at::_scaled_mm(a.contiguous(), b.contiguous().t(), a_scale.reciprocal(),
                        b_scale.reciprocal(), /*bias=*/{}, /*scale_result=*/{}, torch::kBFloat16);
}

/// x W^T, weight by weight.
Tensor hardware_forward(const Float8Numbers& x, Float8Weights& weight) {
  const auto& [half, scales] = weight.forward();
  const Tensor rows = x.bytes(kForwardType);
  std::vector<Tensor> outputs;
  std::int64_t row = 0;
  for (std::size_t i = 0; i < weight.weights().size(); ++i) {
    const std::int64_t count = weight.weights()[i].size(0);
    const Tensor scale = scales.select(0, static_cast<std::int64_t>(i));
    const Tensor bytes = (half.narrow.narrow(0, row, count) * scale).to(kForwardType);
    outputs.push_back(multiply_bytes(rows, x.scale, bytes, scale));
    row += count;
  }
  return outputs.size() == 1 ? outputs.front() : at::cat(outputs, 1);
}

/// g W, the sum over the weights.
Tensor hardware_input_gradient(const Float8Numbers& g, Float8Weights& weight) {
  const auto& [half, scales] = weight.backward();
  const Tensor rows = g.bytes(kGradientType);
  Tensor sum;
  std::int64_t row = 0;
  for (std::size_t i = 0; i < weight.weights().size(); ++i) {
    const std::int64_t count = weight.weights()[i].size(0);
    const Tensor scale = scales.select(0, static_cast<std::int64_t>(i));
    const Tensor bytes = (half.narrow.narrow(0, row, count) * scale).to(kForwardType).t();
    const Tensor product = multiply_bytes(rows.narrow(1, row, count), g.scale, bytes, scale);
    sum = sum.defined() ? sum + product : product;
    row += count;
  }
  return sum;
}

class Float8MatmulFormat : public MatmulFormat {
 public:
  explicit Float8MatmulFormat(Scaling scaling) : scaling_(scaling) {}

  std::string remark(torch::Device device) const override {
    if (!device.is_cpu()) return "";
    return "no CPU multiplies fp8: operands are rounded to it and multiplied as bf16, which shows "
           "what fp8 does to the numbers; bf16-mixed is faster";
  }

  OperandPtr input(const Tensor& x) const override {
    return std::make_shared<Float8Matrix>(x, kForwardType, scaling_);
  }
  OperandPtr weight(at::TensorList weights, const std::vector<Tensor>& kept) const override {
    return std::make_shared<Float8Weights>(weights, kept, scaling_);
  }
  OperandPtr gradient(const Tensor& g, const GradientStreams& /*streams*/) const override {
    return std::make_shared<Float8Matrix>(g, kGradientType, scaling_);
  }

  Tensor forward(Operand& x, Operand& weight) const override {
    Float8Numbers& rows = matrix_of(x).numbers();
    Float8Weights& weights = weights_of(weight);
    if (multiplies_fp8(rows, weights, scaling_)) return hardware_forward(rows, weights);
    return bf16_.forward(rows.half, weights.forward().half);
  }

  Tensor input_gradient(Operand& g, Operand& weight, ScalarType out) const override {
    Float8Numbers& rows = matrix_of(g).numbers();
    Float8Weights& weights = weights_of(weight);
    if (multiplies_fp8(rows, weights, scaling_))
      return hardware_input_gradient(rows, weights).to(out);
    return bf16_.input_gradient(rows.half, weights.backward().half, out);
  }

  Tensor weight_gradient(Operand& g, Operand& x, ScalarType out) const override {
    return bf16_.weight_gradient(bf16_of(g), bf16_of(x), out);
  }
  void add_weight_gradient(Operand& g, Operand& x, const Tensor& sum,
                           double factor) const override {
    bf16_.add_weight_gradient(bf16_of(g), bf16_of(x), sum, factor);
  }

  int kept_kernels(std::int64_t rows, std::int64_t in, std::int64_t out) const override {
    return bf16_.kept_kernels(rows, in, out);
  }

 private:
  static Float8Matrix& matrix_of(Operand& operand) { return static_cast<Float8Matrix&>(operand); }
  static Float8Weights& weights_of(Operand& weight) { return static_cast<Float8Weights&>(weight); }
  static HalfMatrix& bf16_of(Operand& operand) { return matrix_of(operand).bf16(); }

  Scaling scaling_;
  HalfMatmulFormat bf16_{torch::kBFloat16};
};

}  // namespace

const MatmulFormat& float8_format() {
  static const Float8MatmulFormat format(Scaling::kTensor);
  return format;
}

const MatmulFormat& float8_rows_format() {
  static const Float8MatmulFormat format(Scaling::kRow);
  return format;
}

}  // namespace halftone
