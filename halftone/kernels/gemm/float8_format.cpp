// SPDX-License-Identifier: Apache-2.0
// fp8 (Micikevicius et al. 2022, "FP8 Formats for Deep Learning"): e4m3 for x and W, e5m2 for the
// gradient on its way to x, each matrix with one scale. The gradient of W is computed in bf16, for
// it sums over all tokens. Scales are powers of two: to multiply by one is exact, and
// floating-point numbers are as fine in one binade as in the next, so no finer scale would round
// less.
//
// An fp8 number is a bf16 number, also after the division by such a scale. So operands are rounded
// to fp8 and kept as bf16; bf16's matmuls of them are exact but for their sums, which are fp32.
// GPUs that multiply fp8 itself get its bytes.
#include <ATen/ops/_scaled_mm.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/where.h>

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

/// A scalar, fp32: the largest power of two by which no number of `matrix` leaves the range of
/// `fp8`. nan where the matrix is not finite, so that all that comes of it shows that.
Tensor scale_for(const Tensor& matrix, ScalarType fp8) {
  constexpr double kSmallest = 0x1p-100;  // smaller numbers may become 0, scales stay finite
  const auto fp32 = matrix.options().dtype(torch::kFloat);
  if (matrix.numel() == 0) return at::ones({}, fp32);
  const Tensor largest = matrix.abs().amax().to(torch::kFloat);
  const Tensor power = (largest_number(fp8) / largest.clamp_min(kSmallest)).log2_().floor_();
  return at::where(largest.isfinite(), power.exp2_(), std::numeric_limits<float>::quiet_NaN());
}

/// A matrix rounded to fp8 as its scale has it: to the nearest, ties to even.
struct Float8Numbers {
  HalfMatrix half;  // the numbers, divided by the scale again
  Tensor scale;

  Tensor bytes(ScalarType fp8) const { return (half.narrow * scale).to(fp8); }
};

Float8Numbers round_to(ScalarType fp8, const Tensor& matrix) {
  const Tensor scale = scale_for(matrix, fp8);
  const double largest = largest_number(fp8);
  const Tensor bytes = (matrix * scale).clamp_(-largest, largest).to(fp8);
  return {HalfMatrix(bytes.to(torch::kBFloat16).div_(scale), /*keeps_wide=*/true), scale};
}

/// x or g: in fp8 for one matmul, in bf16 for the gradient of the weight.
class Float8Matrix : public Operand {
 public:
  Float8Matrix(const Tensor& matrix, ScalarType fp8)
      : bf16_(matrix.to(torch::kBFloat16), /*keeps_wide=*/true), fp8_(fp8) {}

  std::vector<Tensor> kept() const override { return bf16_.kept(); }
  HalfMatrix& bf16() { return bf16_; }
  Float8Numbers& numbers() {
    if (!numbers_) numbers_.emplace(round_to(fp8_, bf16_.narrow));
    return *numbers_;
  }
  ScalarType fp8() const { return fp8_; }

 private:
  HalfMatrix bf16_;
  ScalarType fp8_;
  std::optional<Float8Numbers> numbers_;
};

struct Float8Weights : Operand {
  explicit Float8Weights(Float8Numbers all) : numbers(std::move(all)) {}
  std::vector<Tensor> kept() const override { return {numbers.half.narrow, numbers.scale}; }
  Float8Numbers numbers;
};

/// Whether the device multiplies fp8 matrices of these sizes. Ada is the first generation.
bool multiplies_fp8(const Tensor& rows, const Tensor& weight) {
  constexpr int kAda = 89;
  constexpr std::int64_t kMultiple = 16;
  return rows.is_cuda() && cuda_compute_capability(rows.device()) >= kAda && rows.numel() > 0 &&
         rows.size(0) % kMultiple == 0 && weight.size(0) % kMultiple == 0 &&
         weight.size(1) % kMultiple == 0;
}

/// a b^T by the hardware, in bf16; b (columns, depth) dense.
Tensor multiply_bytes(const Float8Matrix& a, const Float8Numbers& a_numbers, const Tensor& b,
                      const Tensor& b_scale) {
  return at::_scaled_mm(a_numbers.bytes(a.fp8()), b.t(), a_numbers.scale.reciprocal(),
                        b_scale.reciprocal(), /*bias=*/{}, /*scale_result=*/{}, torch::kBFloat16);
}

class Float8MatmulFormat : public MatmulFormat {
 public:
  bool takes(const Tensor& x) const override { return x.is_cpu() || x.is_cuda(); }

  std::string remark(torch::Device device) const override {
    if (!device.is_cpu()) return "";
    return "no CPU multiplies fp8: operands are rounded to it and multiplied as bf16, so fp8-mixed "
           "shows here what fp8 does to the numbers, and bf16-mixed is faster";
  }

  OperandPtr input(const Tensor& x) const override {
    return std::make_shared<Float8Matrix>(x, kForwardType);
  }
  OperandPtr weight(at::TensorList weights, const std::vector<Tensor>& kept) const override {
    if (!kept.empty())
      return std::make_shared<Float8Weights>(
          Float8Numbers{HalfMatrix(kept[0], /*keeps_wide=*/false), kept[1]});
    const Tensor merged = merged_view(weights);
    Float8Numbers rounded = round_to(kForwardType, merged.defined() ? merged : at::cat(weights));
    return std::make_shared<Float8Weights>(
        Float8Numbers{HalfMatrix(rounded.half.narrow, /*keeps_wide=*/false), rounded.scale});
  }
  OperandPtr gradient(const Tensor& g, const GradientStreams& /*streams*/) const override {
    return std::make_shared<Float8Matrix>(g, kGradientType);
  }

  Tensor forward(Operand& x, Operand& weight) const override {
    auto& rows = static_cast<Float8Matrix&>(x);
    Float8Numbers& w = numbers_of(weight);
    if (multiplies_fp8(rows.bf16().narrow, w.half.narrow))
      return multiply_bytes(rows, rows.numbers(), w.bytes(kForwardType), w.scale);
    return bf16_.forward(rows.numbers().half, w.half);
  }

  Tensor input_gradient(Operand& g, Operand& weight, ScalarType out) const override {
    auto& rows = static_cast<Float8Matrix&>(g);
    Float8Numbers& w = numbers_of(weight);
    if (multiplies_fp8(rows.bf16().narrow, w.half.narrow))
      return multiply_bytes(rows, rows.numbers(), w.bytes(kForwardType).t().contiguous(), w.scale)
          .to(out);
    return bf16_.input_gradient(rows.numbers().half, w.half, out);
  }

  Tensor weight_gradient(Operand& g, Operand& x, ScalarType out) const override {
    return bf16_.weight_gradient(bf16_of(g), bf16_of(x), out);
  }
  void add_weight_gradient(Operand& g, Operand& x, const Tensor& sum,
                           double factor) const override {
    bf16_.add_weight_gradient(bf16_of(g), bf16_of(x), sum, factor);
  }

  // Beside what bf16 takes: the matrix that is rounded, and in between its bytes.
  double forward_bytes(const MatmulShape& shape, const LayerDtypes& layer) const override {
    return kRounding * shape.rows * shape.in + bf16_.forward_bytes(shape, layer);
  }
  double backward_bytes(const MatmulShape& shape, const LayerDtypes& layer) const override {
    return kRounding * shape.rows * shape.out + bf16_.backward_bytes(shape, layer);
  }
  double lm_head_bytes(const MatmulShape& chunk, const LayerDtypes& layer) const override {
    return bf16_.lm_head_bytes(chunk, layer);
  }
  double kept_bytes(const LayerDtypes& /*layer*/) const override { return 2; }

 private:
  static constexpr double kRounding = 3;

  static HalfMatrix& bf16_of(Operand& operand) {
    return static_cast<Float8Matrix&>(operand).bf16();
  }
  static Float8Numbers& numbers_of(Operand& weight) {
    return static_cast<Float8Weights&>(weight).numbers;
  }

  HalfMatmulFormat bf16_{torch::kBFloat16};
};

}  // namespace

const MatmulFormat& float8_format() {
  static const Float8MatmulFormat format;
  return format;
}

}  // namespace halftone
