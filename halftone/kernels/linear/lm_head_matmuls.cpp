// SPDX-License-Identifier: Apache-2.0
#include "halftone/kernels/linear/lm_head_matmuls.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "halftone/core/random.h"
#include "halftone/kernels/gemm/cpu_gemm_config.h"
#include "halftone/kernels/gemm/gemm32.h"
#include "halftone/kernels/gemm/int8_gemm.h"
#include "halftone/kernels/linear/weight_cache.h"

namespace halftone {
namespace {

using torch::ScalarType;
using torch::Tensor;

/// One piece of memory for the matrices of all chunks of one size.
class ChunkBuffer {
 public:
  ChunkBuffer(std::int64_t columns, ScalarType dtype) : columns_(columns), dtype_(dtype) {}

  /// (rows, columns), dense, with any content.
  Tensor rows(std::int64_t rows) {
    if (!memory_.defined() || memory_.size(0) != rows)
      memory_ = at::empty({rows, columns_}, torch::TensorOptions(dtype_));
    return memory_;
  }

 private:
  std::int64_t columns_;
  ScalarType dtype_;
  Tensor memory_;
};

/// sum += factor a b, in fp32.
void add_matmul(const Tensor& a, const Tensor& b, double factor, Tensor& sum) {
  if (sum.defined()) {
    gemm32_add(sum, a, b, factor);
  } else {
    sum = gemm32(a, b);
    if (factor != 1.0) sum.mul_(factor);
  }
}

class HeadMatmuls32 : public LmHeadMatmuls {
 public:
  explicit HeadMatmuls32(const Tensor& weight)
      : weight_(weight.to(torch::kFloat)), logits_(weight.size(0), torch::kFloat) {}

  Tensor logits(const Tensor& hidden) override {
    hidden_ = hidden.to(torch::kFloat);
    Tensor out = logits_.rows(hidden.size(0));
    gemm32_out(out, hidden_, weight_.t());
    return out;
  }

  void hidden_gradient(const Tensor& gradient, double factor, const Tensor& out) override {
    gemm32_out(out, gradient, weight_);
    if (factor != 1.0) out.mul_(factor);
  }

  void add_weight_gradient(const Tensor& gradient, double factor, Tensor& sum) override {
    add_matmul(gradient.t(), hidden_, factor, sum);
  }

 private:
  Tensor weight_;  // (V, dim)
  Tensor hidden_;  // (n, dim) of the present chunk
  ChunkBuffer logits_;
};

/// Each matmul by the path that gemm_half() would take. What is upcast is upcast once, in memory
/// that all chunks use.
class HeadMatmulsHalf : public LmHeadMatmuls {
 public:
  HeadMatmulsHalf(const Tensor& rounded_weight, const GemmBackends& paths)
      : paths_(paths),
        weight_(rounded_weight),
        logits_(weight_.size(0), weight_.scalar_type()),
        wide_(weight_.size(0), torch::kFloat),
        products_(weight_.size(1), weight_.scalar_type()),
        wide_products_(weight_.size(1), torch::kFloat) {
    if (any(GemmBackend::kUpcast)) wide_weight_ = weight_.to(torch::kFloat);
    if (dtype() == torch::kHalf && paths_.input_gradient == GemmBackend::kNative)
      largest_weight_ = weight_.abs().max().item<double>();
  }

  Tensor logits(const Tensor& hidden) override {
    hidden_ = hidden.to(dtype());
    wide_hidden_ = any(GemmBackend::kUpcast) ? hidden_.to(torch::kFloat) : Tensor();
    wide_gradient_ = Tensor();
    Tensor out = logits_.rows(hidden.size(0));
    if (paths_.forward == GemmBackend::kNative) return at::mm_out(out, hidden_, weight_.t());
    const Tensor wide = wide_.rows(hidden.size(0));
    gemm32_out(wide, wide_hidden_, wide_weight_.t());
    return out.copy_(wide);
  }

  // Up to 2^15, half the range. A native matmul is rounded to fp16, too: the bounds of its sums
  // are |gradient of a row| <= 2 weight, and all rows of one sign.
  int gradient_exponent(double largest) const override {
    if (dtype() != torch::kHalf) return 0;
    double bound = 1.0;
    if (paths_.input_gradient == GemmBackend::kNative) bound = std::max(bound, 2 * largest_weight_);
    if (paths_.weight_gradient == GemmBackend::kNative && hidden_.numel() > 0)
      bound = std::max(bound,
                       static_cast<double>(hidden_.size(0)) * hidden_.abs().max().item<double>());
    const double top = largest * bound;
    if (!std::isfinite(top) || top <= 0.0) return 0;
    return std::clamp(15 - static_cast<int>(std::ceil(std::log2(top))), -60, 60);
  }

  void hidden_gradient(const Tensor& gradient, double factor, const Tensor& out) override {
    if (paths_.input_gradient == GemmBackend::kNative) {
      out.copy_(at::mm(gradient, weight_));
    } else {
      gemm32_out(out, upcast_gradient(gradient), wide_weight_);
    }
    if (factor != 1.0) out.mul_(factor);
  }

  void add_weight_gradient(const Tensor& gradient, double factor, Tensor& sum) override {
    if (paths_.weight_gradient == GemmBackend::kUpcast)
      return add_matmul(upcast_gradient(gradient).t(), wide_hidden_, factor, sum);
    if (!sum.defined()) sum = at::zeros_like(weight_, torch::kFloat);
    // In blocks that are still in the cache when they are added.
    const std::int64_t block = std::max<std::int64_t>(
        1, kWeightGradientBlock / std::max<std::int64_t>(1, weight_.size(1)));
    for (std::int64_t first = 0; first < weight_.size(0); first += block) {
      const std::int64_t count = std::min(block, weight_.size(0) - first);
      Tensor product = products_.rows(count);
      at::mm_out(product, gradient.narrow(1, first, count).t(), hidden_);
      const Tensor wide = wide_products_.rows(count).copy_(product);
      sum.narrow(0, first, count).add_(wide, factor);
    }
  }

 private:
  ScalarType dtype() const { return weight_.scalar_type(); }

  bool any(GemmBackend path) const {
    return paths_.forward == path || paths_.input_gradient == path ||
           paths_.weight_gradient == path;
  }

  Tensor upcast_gradient(const Tensor& gradient) {
    if (!wide_gradient_.defined()) wide_gradient_ = wide_.rows(gradient.size(0)).copy_(gradient);
    return wide_gradient_;
  }

  GemmBackends paths_;
  Tensor weight_;         // (V, dim), rounded
  Tensor wide_weight_;    // the same in fp32; where a path needs it
  Tensor hidden_;         // (n, dim) of the present chunk, rounded
  Tensor wide_hidden_;    // the same in fp32; where a path needs it
  Tensor wide_gradient_;  // (n, V) of the present chunk
  ChunkBuffer logits_;
  ChunkBuffer wide_;
  ChunkBuffer products_;  // a block of the weight's gradient, of the native path
  ChunkBuffer wide_products_;
  double largest_weight_ = 0;
};

/// Quantised as int8_merged_linear() does, with the chunk in the place of the batch: where a scale
/// is that of a feature, each chunk has its own.
class HeadMatmuls8 : public LmHeadMatmuls {
 public:
  HeadMatmuls8(const Tensor& weight, std::uint64_t stream)
      : weight_(weight),
        by_class_(cached_quantize({weight}, /*transposed=*/false,
                                  [&] { return quantize_right(weight, {}); })),
        stream_(stream) {}

  Tensor logits(const Tensor& hidden) override {
    hidden_ = hidden;
    chunk_stream_ = random_word(stream_, chunk_++);
    return int8_gemm(quantize_left(hidden, {}), by_class_);
  }

  void hidden_gradient(const Tensor& gradient, double factor, const Tensor& out) override {
    const std::uint64_t stream = random_word(chunk_stream_, 0);
    const std::vector<Int8Matrix>& parts = by_feature();
    out.zero_();
    for (std::size_t i = 0; i < parts.size(); ++i) {
      const Tensor part =
          gradient.narrow(1, static_cast<std::int64_t>(i) * kMaxInt8Depth, parts[i].depth);
      int8_gemm(quantize_left(part, {true, random_word(stream, i)}), parts[i], out);
    }
    if (factor != 1.0) out.mul_(factor);
  }

  void add_weight_gradient(const Tensor& gradient, double factor, Tensor& sum) override {
    const Int8Matrix left =
        quantize_left(gradient.t(), {true, random_word(random_word(chunk_stream_, 1), 0)});
    Int8Matrix right = quantize_right(hidden_.t(), {});
    if (factor != 1.0) right.scales.mul_(factor);
    sum = int8_gemm(left, right, sum);
  }

 private:
  /// W for sums over the classes, in parts that one integer sum can hold.
  const std::vector<Int8Matrix>& by_feature() {
    for (std::int64_t first = static_cast<std::int64_t>(by_feature_.size()) * kMaxInt8Depth;
         first < weight_.size(0); first += kMaxInt8Depth) {
      const std::int64_t depth = std::min(kMaxInt8Depth, weight_.size(0) - first);
      by_feature_.push_back(quantize_right(weight_.narrow(0, first, depth).t(), {}));
    }
    return by_feature_;
  }

  Tensor weight_;
  Tensor hidden_;  // (n, dim) of the present chunk
  Int8Matrix by_class_;
  std::vector<Int8Matrix> by_feature_;
  std::uint64_t stream_;
  std::uint64_t chunk_stream_ = 0;
  std::uint64_t chunk_ = 0;
};

/// The rounding of an output head's weight.
Tensor rounded_weight(const Tensor& weight, ScalarType dtype) {
  return cached_cast({weight}, dtype, [&] { return weight.to(dtype); });
}

}  // namespace

int LmHeadMatmuls::gradient_exponent(double /*largest*/) const { return 0; }

std::unique_ptr<LmHeadMatmuls> lm_head_matmuls(const Tensor& weight, const LmHeadFormat& recipe) {
  if (recipe.int8) return std::make_unique<HeadMatmuls8>(weight, recipe.stream);
  if (recipe.dtype == torch::kFloat) return std::make_unique<HeadMatmuls32>(weight);
  return std::make_unique<HeadMatmulsHalf>(rounded_weight(weight, recipe.dtype),
                                           cpu_gemm_config().of(recipe.dtype));
}

}  // namespace halftone
