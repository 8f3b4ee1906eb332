// SPDX-License-Identifier: Apache-2.0
#include "halftone/kernels/gemm/int8_gemm.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <fbgemm/Fbgemm.h>

#include <algorithm>
#include <cstddef>
#include <map>
#include <memory>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>

#include "halftone/core/error.h"
#include "halftone/core/random.h"
#include "halftone/kernels/common/kernel_type_impl.h"
#include "halftone/kernels/common/operator_impl.h"
#include "halftone/kernels/common/transpose_impl.h"
#include "halftone/kernels/gemm/int8_impl.h"
#include "halftone/kernels/gemm/int8_reference.h"

namespace halftone {
namespace {

using torch::Tensor;
using PackedLeft = fbgemm::PackAMatrix<std::uint8_t, std::int32_t>;
using PackedRight = fbgemm::PackBMatrix<std::int8_t, std::int32_t>;

std::int64_t quads_in(std::int64_t depth) { return (depth + 3) / 4; }

std::uint32_t* quads_of(const Tensor& quads) {
  return reinterpret_cast<std::uint32_t*>(quads.data_ptr<std::int32_t>());
}

Int8Format format_of(std::int32_t largest, std::int32_t zero, const Int8Rounding& rounding) {
  const std::uint64_t key = random_word(rounding.stream, 0);
  return {.largest = static_cast<float>(largest),
          .zero = zero,
          .stochastic = rounding.stochastic,
          .key = {static_cast<std::uint32_t>(key), static_cast<std::uint32_t>(key >> 32U)}};
}

// On Arm FBGEMM calls the processor supported, packs, and then knows no way to multiply.
bool has_fbgemm() { return fbgemm::fbgemmSupportedCPU() && fbgemm::fbgemmHasAvx2Support(); }

bool has_vnni() {
  const fbgemm::inst_set_t set = fbgemm::fbgemmInstructionSet();
  return set == fbgemm::inst_set_t::avx512_vnni || set == fbgemm::inst_set_t::avx512_vnni_ymm;
}

std::int32_t left_zero() { return has_vnni() ? 128 : 64; }

// ---- quantizing

/// The integers, their scales and, for FBGEMM, their sums.
using Quantized = std::tuple<Tensor, Tensor, Tensor>;
using QuantizeSignature = Quantized(const Tensor& matrix, bool left, bool stochastic,
                                    std::int64_t stream);

void check_matrix(const Tensor& matrix) {
  HALFTONE_CHECK(matrix.dim() == 2 && has_kernel_type(matrix.scalar_type()),
                 "[int8] expected a matrix in fp32, bf16 or fp16, got ", matrix.scalar_type(), " ",
                 matrix.sizes());
  HALFTONE_CHECK(matrix.size(1) <= kMaxInt8Depth, "[int8] expected sums of at most ", kMaxInt8Depth,
                 " matmuls, got ", matrix.size(1));
}

bool lies_by_columns(const Tensor& matrix) {
  return matrix.stride(1) != 1 && matrix.stride(0) == 1;
}

Quantized quantized_by_definition(const Tensor& matrix, double largest,
                                  const Int8Rounding& rounding) {
  const ReferenceInt8 made = quantize_reference(matrix.to(torch::kFloat), largest, rounding);
  return {made.integers, made.scales, Tensor()};
}

Quantized quantize_elsewhere(const Tensor& matrix, bool /*left*/, bool stochastic,
                             std::int64_t stream) {
  check_matrix(matrix);
  return quantized_by_definition(matrix, 127, {stochastic, static_cast<std::uint64_t>(stream)});
}

Quantized quantize_buffers(const Tensor& matrix, bool /*left*/, bool /*stochastic*/,
                           std::int64_t /*stream*/) {
  check_matrix(matrix);
  const std::int64_t rows = matrix.size(0), depth = quads_in(matrix.size(1));
  const auto ints = matrix.options().dtype(torch::kInt);
  return {lies_by_columns(matrix) ? at::empty({depth, rows}, ints) : at::empty({rows, depth}, ints),
          at::empty({rows}, matrix.options().dtype(torch::kFloat)), at::empty({rows}, ints)};
}

Quantized quantize_cpu(const Tensor& matrix, bool left, bool stochastic, std::int64_t stream) {
  check_matrix(matrix);
  const Int8Rounding rounding{stochastic, static_cast<std::uint64_t>(stream)};
  const std::int32_t largest = left ? int8_left_limit() : 127;
  if (!has_fbgemm()) return quantized_by_definition(matrix, largest, rounding);
  const Int8Format format = format_of(largest, left ? left_zero() : 0, rounding);
  const bool by_columns = lies_by_columns(matrix);
  const Tensor dense = by_columns || matrix.stride(1) == 1 ? matrix : matrix.contiguous();
  const std::int64_t rows = dense.size(0), depth = dense.size(1);
  const Quantized made = quantize_buffers(dense, left, stochastic, stream);
  const auto& [quads, scales, sums] = made;
  const Int8Source source{.values = dense.const_data_ptr(),
                          .type = kernel_type(dense.scalar_type()),
                          .stride = dense.stride(by_columns ? 1 : 0),
                          .rows = by_columns ? depth : rows,
                          .columns = by_columns ? rows : depth};
  const auto range = by_columns ? quantize_columns : quantize_rows;
  auto* to = quads_of(quads);
  auto* scale = scales.data_ptr<float>();
  auto* sum = sums.data_ptr<std::int32_t>();
  // Whole vectors of columns for each thread.
  constexpr std::int64_t kBlock = 16;
  at::parallel_for(0, (rows + kBlock - 1) / kBlock, 2, [&](std::int64_t begin, std::int64_t end) {
    range(source, format, begin * kBlock, std::min(end * kBlock, rows), to, scale, sum);
  });
  return made;
}

const Operator<QuantizeSignature> int8_quantize(
    "int8_quantize(Tensor matrix, bool left, bool stochastic, int stream) -> "
    "(Tensor, Tensor, Tensor)",
    {.reference = quantize_elsewhere, .cpu = quantize_cpu, .meta = quantize_buffers});

Int8Matrix quantize(const Tensor& matrix, bool left, const Int8Rounding& rounding) {
  const auto [quads, scales, sums] =
      int8_quantize(matrix, left, rounding.stochastic, static_cast<std::int64_t>(rounding.stream));
  return {.quads = quads,
          .scales = scales,
          .sums = sums,
          .depth = matrix.size(1),
          .depth_major = sums.defined() && lies_by_columns(matrix)};
}

// ---- multiplying

struct Quads {
  const std::uint32_t* data;
  std::int64_t row_stride;
  std::int64_t depth_stride;
};

Quads view_of(const Int8Matrix& matrix) {
  const std::int64_t rows = matrix.scales.size(0), depth = quads_in(matrix.depth);
  return {quads_of(matrix.quads), matrix.depth_major ? 1 : depth, matrix.depth_major ? rows : 1};
}

/// target[d][r] = source(r, d).
void copy_depth_major(const Quads& source, std::int64_t rows, std::int64_t depth,
                      std::uint32_t* target, std::int64_t target_stride) {
  if (source.depth_stride == 1)
    return transpose_words({source.data, source.row_stride, rows, depth}, target, target_stride);
  for (std::int64_t d = 0; d < depth; ++d)
    std::copy_n(source.data + d * source.depth_stride, rows, target + d * target_stride);
}

/// The left operand's bytes, row by row.
Tensor row_major(const Int8Matrix& left) {
  if (!left.depth_major) return left.quads;
  const std::int64_t rows = left.scales.size(0), depth = quads_in(left.depth);
  const Tensor out = at::empty({rows, depth}, left.quads.options());
  const Quads view = view_of(left);
  constexpr std::int64_t kBlock = 16;
  at::parallel_for(0, (rows + kBlock - 1) / kBlock, 2, [&](std::int64_t begin, std::int64_t end) {
    const std::int64_t first = begin * kBlock;
    const std::int64_t count = std::min(end * kBlock, rows) - first;
    for (std::int64_t d0 = 0; d0 < depth; d0 += kBlock)
      transpose_words({view.data + first + d0 * rows, rows, std::min(kBlock, depth - d0), count},
                      quads_of(out) + first * depth + d0, depth);
  });
  return out;
}

/// FBGEMM's packed matrix of (4 quads, rows), to be filled by pack(): its own packing is a third of
/// the time of a matmul with 1024 rows. One for each shape and thread.
PackedRight& packed_right(std::int64_t quads, std::int64_t rows) {
  constexpr std::size_t kMostShapes = 64;
  thread_local std::map<std::pair<std::int64_t, std::int64_t>, std::unique_ptr<PackedRight>> known;
  if (known.size() >= kMostShapes && !known.contains({quads, rows})) known.clear();
  std::unique_ptr<PackedRight>& packed = known[{quads, rows}];
  if (!packed) {
    const std::vector<std::int8_t> zeros(static_cast<std::size_t>(4 * quads * rows));
    packed = std::make_unique<PackedRight>(
        fbgemm::matrix_op_t::NoTranspose, static_cast<std::int32_t>(4 * quads),
        static_cast<std::int32_t>(rows), zeros.data(), static_cast<std::int32_t>(rows));
    TORCH_INTERNAL_ASSERT(packed->addr(3, 0) == packed->addr(0, 0) + 3 &&
                          (rows == 1 || packed->addr(0, 1) == packed->addr(0, 0) + 4));
  }
  return *packed;
}

void pack(const Int8Matrix& right, PackedRight& packed) {
  const std::int64_t rows = right.scales.size(0), depth = quads_in(right.depth);
  const std::int64_t block_depth = packed.blockRowSize() / 4;
  const std::int64_t block_rows = packed.blockColSize();
  const Quads view = view_of(right);
  auto* buffer = packed.getBuf();
  at::parallel_for(
      0, (rows + block_rows - 1) / block_rows, 1, [&](std::int64_t n, std::int64_t end) {
        for (; n < end; ++n) {
          const std::int64_t r = n * block_rows;
          for (std::int64_t d = 0; d < depth; d += block_depth) {
            auto* target = buffer + packed.addr(static_cast<std::int32_t>(4 * d),
                                                static_cast<std::int32_t>(r));
            copy_depth_major({view.data + r * view.row_stride + d * view.depth_stride,
                              view.row_stride, view.depth_stride},
                             std::min(block_rows, rows - r), std::min(block_depth, depth - d),
                             reinterpret_cast<std::uint32_t*>(target), block_rows);
          }
        }
      });
}

/// The rows of a matmul in parts of nearly one size, as many for each thread; the int32 sums of a
/// part stay in the second cache until they are scaled.
class RowParts {
 public:
  RowParts(std::int64_t rows, std::int64_t columns) : rows_(rows) {
    constexpr std::int64_t kBytes = 384 << 10;
    const std::int64_t most = std::clamp<std::int64_t>(kBytes / (4 * columns), 64, 256);
    const std::int64_t threads = at::get_num_threads();
    const std::int64_t least = (rows + most - 1) / most;
    const std::int64_t even = (least + threads - 1) / threads * threads;
    count_ = std::min(even, std::max<std::int64_t>(1, rows / kStep));
  }
  std::int64_t count() const { return count_; }
  std::int64_t begin(std::int64_t part) const {
    return part == count_ ? rows_ : rows_ * part / count_ / kStep * kStep;
  }

 private:
  static constexpr std::int64_t kStep = 8;  // what FBGEMM multiplies at once with VNNI
  std::int64_t rows_;
  std::int64_t count_;
};

using GemmSignature = Tensor(const Tensor& left, const Tensor& left_scales, bool left_depth_major,
                             const Tensor& right, const Tensor& right_scales,
                             const std::optional<Tensor>& right_sums, bool right_depth_major,
                             std::int64_t depth, torch::ScalarType dtype,
                             const std::optional<Tensor>& into);

Tensor int8_gemm_elsewhere(const Tensor& left, const Tensor& left_scales, bool /*depth_major*/,
                           const Tensor& right, const Tensor& right_scales,
                           const std::optional<Tensor>& /*right_sums*/, bool /*depth_major*/,
                           std::int64_t /*depth*/, torch::ScalarType dtype,
                           const std::optional<Tensor>& into) {
  const Tensor product = int8_gemm_reference({left, left_scales}, {right, right_scales});
  return into ? into->add_(product) : product.to(dtype);
}

Tensor int8_gemm_buffer(const Tensor& /*left*/, const Tensor& left_scales, bool /*depth_major*/,
                        const Tensor& /*right*/, const Tensor& right_scales,
                        const std::optional<Tensor>& /*right_sums*/, bool /*depth_major*/,
                        std::int64_t /*depth*/, torch::ScalarType dtype,
                        const std::optional<Tensor>& into) {
  return into ? *into
              : at::empty({left_scales.size(0), right_scales.size(0)},
                          left_scales.options().dtype(dtype));
}

Tensor multiply(const Int8Matrix& left, const Int8Matrix& right, torch::ScalarType dtype,
                const std::optional<Tensor>& into) {
  const bool accumulate = into.has_value();
  const std::int64_t rows = left.scales.size(0), columns = right.scales.size(0);
  const Tensor out =
      accumulate ? *into : at::empty({rows, columns}, left.scales.options().dtype(dtype));
  if (rows == 0 || columns == 0 || left.depth == 0) return accumulate ? out : out.zero_();
  const Tensor bytes = row_major(left);
  PackedRight& packed = packed_right(quads_in(right.depth), columns);
  pack(right, packed);
  const auto depth = static_cast<std::int32_t>(4 * quads_in(left.depth));
  const RowParts parts(rows, columns);
  at::parallel_for(0, parts.count(), 1, [&](std::int64_t part, std::int64_t end) {
    std::vector<std::int32_t> sums;
    for (; part < end; ++part) {
      const std::int64_t first = parts.begin(part);
      const std::int64_t count = parts.begin(part + 1) - first;
      sums.resize(std::max(sums.size(), static_cast<std::size_t>(count * columns)));
      PackedLeft a(fbgemm::matrix_op_t::NoTranspose, static_cast<std::int32_t>(count), depth,
                   reinterpret_cast<const std::uint8_t*>(quads_of(bytes)) + first * depth, depth);
      fbgemm::DoNothing<std::int32_t, std::int32_t> nothing;
      const fbgemm::memCopy<> copy(nothing);
      fbgemm::fbgemmPacked(a, packed, sums.data(), sums.data(), static_cast<std::uint32_t>(columns),
                           copy, 0, 1);
      const Int8Sums block{.sums = sums.data(),
                           .rows = count,
                           .columns = columns,
                           .zero = left_zero(),
                           .left_scales = left.scales.const_data_ptr<float>() + first,
                           .right_scales = right.scales.const_data_ptr<float>(),
                           .right_sums = right.sums.const_data_ptr<std::int32_t>()};
      if (accumulate)
        add_dequantized(block, out.data_ptr<float>() + first * columns);
      else
        dequantize(block, kernel_type(out.scalar_type()),
                   static_cast<std::byte*>(out.data_ptr()) +
                       first * columns * static_cast<std::int64_t>(out.element_size()));
    }
  });
  return out;
}

Tensor int8_gemm_cpu(const Tensor& left, const Tensor& left_scales, bool left_depth_major,
                     const Tensor& right, const Tensor& right_scales,
                     const std::optional<Tensor>& right_sums, bool right_depth_major,
                     std::int64_t depth, torch::ScalarType dtype,
                     const std::optional<Tensor>& into) {
  const auto holds = [&](const Tensor& quads, const Tensor& scales, bool depth_major) {
    const std::int64_t rows = scales.numel(), words = quads_in(depth);
    return quads.dim() == 2 && quads.is_contiguous() && scales.is_contiguous() &&
           quads.size(0) == (depth_major ? words : rows) &&
           quads.size(1) == (depth_major ? rows : words);
  };
  HALFTONE_CHECK(!right_sums || (holds(left, left_scales, left_depth_major) &&
                                 holds(right, right_scales, right_depth_major) &&
                                 right_sums->numel() == right_scales.numel()),
                 "[int8_gemm] expected what int8_quantize() makes of matrices of one depth, got ",
                 left.sizes(), " and ", right.sizes());
  HALFTONE_CHECK(
      has_kernel_type(dtype) &&
          (!into || (into->is_contiguous() && into->dim() == 2 && dtype == torch::kFloat &&
                     into->scalar_type() == dtype && into->size(0) == left_scales.numel() &&
                     into->size(1) == right_scales.numel())),
      "[int8_gemm] expected a product in fp32, bf16 or fp16, or a dense fp32 sum of its shape");
  if (!right_sums)
    return int8_gemm_elsewhere(left, left_scales, left_depth_major, right, right_scales, right_sums,
                               right_depth_major, depth, dtype, into);
  return multiply(
      {.quads = left, .scales = left_scales, .depth = depth, .depth_major = left_depth_major},
      {.quads = right,
       .scales = right_scales,
       .sums = *right_sums,
       .depth = depth,
       .depth_major = right_depth_major},
      dtype, into);
}

const Operator<GemmSignature> int8_gemm_operator(
    "int8_gemm(Tensor left, Tensor left_scales, bool left_depth_major, Tensor right, "
    "Tensor right_scales, Tensor? right_sums, bool right_depth_major, int depth, "
    "ScalarType dtype, Tensor(a!)? into) -> Tensor(a!)",
    {.reference = int8_gemm_elsewhere, .cpu = int8_gemm_cpu, .meta = int8_gemm_buffer});

}  // namespace

std::int32_t int8_left_limit(torch::Device device) {
  return device.is_cpu() && has_fbgemm() && !has_vnni() ? 64 : 127;
}

Int8Matrix quantize_left(const Tensor& matrix, const Int8Rounding& rounding) {
  return quantize(matrix, /*left=*/true, rounding);
}

Int8Matrix quantize_right(const Tensor& matrix, const Int8Rounding& rounding) {
  return quantize(matrix, /*left=*/false, rounding);
}

Tensor int8_gemm(const Int8Matrix& left, const Int8Matrix& right, const Tensor& into,
                 torch::ScalarType dtype) {
  HALFTONE_CHECK(left.depth == right.depth, "[int8_gemm] expected operands of one depth, got ",
                 left.depth, " and ", right.depth);
  return int8_gemm_operator(left.quads, left.scales, left.depth_major, right.quads, right.scales,
                            if_defined(right.sums), right.depth_major, left.depth, dtype,
                            if_defined(into));
}

}  // namespace halftone
