// SPDX-License-Identifier: Apache-2.0
#include "halftone/kernels/gemm/int8_weights.h"

#include <ATen/Parallel.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

#include "halftone/core/error.h"
#include "halftone/kernels/common/kernel_type_impl.h"
#include "halftone/kernels/common/matrix_rows_impl.h"
#include "halftone/kernels/common/operator_impl.h"
#include "halftone/kernels/gemm/int8_gemm.h"
#include "halftone/kernels/gemm/int8_impl.h"
#include "halftone/kernels/gemm/int8_reference.h"
#include "halftone/kernels/gemm/int8_weights_impl.h"

namespace halftone {
namespace {

using torch::ScalarType;
using torch::Tensor;

constexpr float kLargest = 127.0F;

std::int64_t int8_stride(std::int64_t columns) {
  return (columns + kInt8Line - 1) / kInt8Line * kInt8Line;
}

/// Rows of integers, each padded to `stride`, with their scales and sums.
struct IntegerRows {
  std::int8_t* integers;
  float* scales;
  std::int32_t* sums;
  std::int64_t stride;
};

/// `matrix` is dense: `rows` times `columns` values. REQUIRES zeros in what is written.
void quantize_to(const Tensor& matrix, std::int64_t rows, std::int64_t columns,
                 const IntegerRows& to) {
  const Int8Format format{.largest = kLargest, .zero = 0, .stochastic = false, .key = {0, 0}};
  const auto width = static_cast<std::int64_t>(matrix.element_size());
  const auto* values = static_cast<const char*>(matrix.const_data_ptr());
  const KernelType type = kernel_type(matrix.scalar_type());
  const auto range = [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; ++r)
      quantize_rows({.values = values + r * columns * width,
                     .type = type,
                     .stride = columns,
                     .rows = 1,
                     .columns = columns},
                    format, 0, 1, reinterpret_cast<std::uint32_t*>(to.integers + r * to.stride),
                    to.scales + r, to.sums + r);
  };
  const std::int64_t grain = 32768 / std::max<std::int64_t>(columns, 1) + 1;
  if (rows <= grain) return range(0, rows);
  at::parallel_for(0, rows, grain, range);
}

void check_matrix_of_weights(const Tensor& weight) {
  HALFTONE_CHECK(
      weight.dim() == 2 && has_kernel_type(weight.scalar_type()) && weight.size(1) <= kMaxInt8Depth,
      "[int8_weights] expected a matrix in fp32, bf16 or fp16 with at most ", kMaxInt8Depth,
      " columns, got ", weight.scalar_type(), " ", weight.sizes());
}

void check_linear(const Tensor& x, at::TensorList integers, at::TensorList scales) {
  HALFTONE_CHECK(integers.size() == scales.size() && !integers.empty() && x.dim() >= 1,
                 "[int8_weights] expected x (..., in), and scales for each matrix, got ", x.sizes(),
                 ", ", integers.size(), " and ", scales.size());
  for (const Tensor& matrix : integers)
    HALFTONE_CHECK(
        matrix.dim() == 2 && matrix.size(1) == x.size(-1) && matrix.scalar_type() == torch::kChar,
        "[int8_weights] expected x (..., in) and int8 (out, in), got ", x.sizes(), " and ",
        matrix.scalar_type(), " ", matrix.sizes());
}

Tensor linear_by_definition(const Tensor& x, at::TensorList integers, at::TensorList scales,
                            ScalarType dtype) {
  check_linear(x, integers, scales);
  const ReferenceInt8 rows = quantize_reference(as_rows(x).to(torch::kFloat), kLargest, {});
  std::vector<Tensor> products;
  for (std::size_t i = 0; i < integers.size(); ++i)
    products.push_back(int8_gemm_reference(rows, {integers[i].contiguous(), scales[i]}).to(dtype));
  const Tensor all = at::cat(products, 1);
  return all.view(with_last(x, all.size(1)));
}

Tensor linear_buffer(const Tensor& x, at::TensorList integers, at::TensorList scales,
                     ScalarType dtype) {
  check_linear(x, integers, scales);
  std::int64_t height = 0;
  for (const Tensor& matrix : integers) height += matrix.size(0);
  return at::empty(with_last(x, height), x.options().dtype(dtype));
}

/// Columns `begin` .. `end` of the product with one matrix, to out[r * out_stride + column].
struct MatrixProduct {
  Int8Block block;  // x and its rows are filled in as it goes
  std::int64_t rows;
  KernelType type;
  std::int64_t width;  // bytes of an element of out
  std::int64_t out_stride;
  Int8SumsFunction* sums;
};

void multiply_range(const MatrixProduct& product, std::int64_t begin, std::int64_t end, char* out) {
  std::int32_t sums[kInt8InputRows * kInt8WeightRows] = {};
  for (std::int64_t column = begin; column < end; column += kInt8WeightRows) {
    for (std::int64_t row = 0; row < product.rows; row += kInt8InputRows) {
      Int8Block block = product.block;
      block.x += row * block.stride;
      block.x_sums += row;
      block.x_scales += row;
      block.x_rows = std::min(kInt8InputRows, product.rows - row);
      block.weight += column * block.stride;
      block.weight_scales += column;
      block.weight_rows = std::min(kInt8WeightRows, end - column);
      product.sums(block, sums);
      scale_int8_sums(block, sums, product.type,
                      out + (row * product.out_stride + column) * product.width,
                      product.out_stride);
    }
  }
}

/// Whether the loops can read the matrix where it lies.
bool is_in_lines(const Tensor& matrix) {
  return matrix.numel() == 0 ||
         (matrix.stride(1) == 1 && matrix.stride(0) == int8_stride(matrix.size(1)));
}

Tensor in_lines(const Tensor& matrix) {
  if (is_in_lines(matrix)) return matrix;
  const Tensor lines = at::zeros({matrix.size(0), int8_stride(matrix.size(1))}, matrix.options());
  const Tensor inner = lines.narrow(1, 0, matrix.size(1));
  inner.copy_(matrix);
  return inner;
}

/// A product of rows that are quantized, with the matrices side by side.
void multiply(const MatrixProduct& product, at::TensorList integers, at::TensorList scales,
              const Tensor& out) {
  auto* target = static_cast<char*>(out.mutable_data_ptr());
  constexpr std::int64_t kGrain = 131072;  // multiplications that are worth a thread
  const std::int64_t grain = kGrain / (product.block.stride * product.rows) + kInt8WeightRows;
  at::parallel_for(0, product.out_stride, grain, [&](std::int64_t begin, std::int64_t end) {
    std::int64_t first = 0;
    for (std::size_t i = 0; i < integers.size(); ++i) {
      const std::int64_t height = integers[i].size(0);
      const std::int64_t from = std::max(begin - first, std::int64_t{0});
      const std::int64_t to = std::min(end - first, height);
      MatrixProduct part = product;
      part.block.weight = integers[i].const_data_ptr<std::int8_t>();
      part.block.weight_scales = scales[i].const_data_ptr<float>();
      if (from < to) multiply_range(part, from, to, target + first * product.width);
      first += height;
    }
  });
}

Tensor linear_cpu(const Tensor& x, at::TensorList integers, at::TensorList scales,
                  ScalarType dtype) {
  if (!is_simd_operand(x)) return linear_by_definition(x, integers, scales, dtype);
  if (!std::all_of(integers.begin(), integers.end(), is_in_lines)) {
    std::vector<Tensor> lines;
    for (const Tensor& matrix : integers) lines.push_back(in_lines(matrix));
    return linear_cpu(x, lines, scales, dtype);
  }
  const Tensor out = linear_buffer(x, integers, scales, dtype);
  if (out.numel() == 0 || x.size(-1) == 0) return out.zero_();
  const Tensor rows = x.contiguous();
  const std::int64_t columns = x.size(-1), count = x.numel() / columns;
  const std::int64_t stride = int8_stride(columns);
  std::vector<std::int8_t> quantized(static_cast<std::size_t>(count * stride));
  std::vector<float> row_scales(static_cast<std::size_t>(count));
  std::vector<std::int32_t> row_sums(static_cast<std::size_t>(count));
  quantize_to(rows, count, columns, {quantized.data(), row_scales.data(), row_sums.data(), stride});
  multiply({.block = {.x = quantized.data(),
                      .x_sums = row_sums.data(),
                      .x_scales = row_scales.data(),
                      .x_rows = 0,
                      .weight = nullptr,
                      .weight_scales = nullptr,
                      .weight_rows = 0,
                      .stride = stride},
            .rows = count,
            .type = kernel_type(dtype),
            .width = static_cast<std::int64_t>(out.element_size()),
            .out_stride = out.size(-1),
            .sums = has_int8_vnni() ? int8_sums_vnni : int8_sums},
           integers, scales, out);
  return out;
}

const Operator<Tensor(const Tensor&, at::TensorList, at::TensorList, ScalarType)>
    int8_weights_linear_operator(
        "int8_weights_linear(Tensor x, Tensor[] integers, Tensor[] scales, ScalarType dtype) -> "
        "Tensor",
        {.reference = linear_by_definition, .cpu = linear_cpu, .meta = linear_buffer});

}  // namespace

std::int64_t int8_weights_bytes(std::int64_t out, std::int64_t in) { return out * int8_stride(in); }

Int8WeightMatrix quantize_weights(const Tensor& weight, Tensor place) {
  check_matrix_of_weights(weight);
  const torch::NoGradGuard no_grad;
  const std::int64_t out = weight.size(0), in = weight.size(1), stride = int8_stride(in);
  const auto bytes = weight.options().dtype(torch::kChar).requires_grad(false);
  const Tensor lines = place.defined() ? place.view(torch::kChar).view({out, stride}).zero_()
                                       : at::zeros({out, stride}, bytes);
  const Tensor integers = lines.narrow(1, 0, in);
  if (in == 0 || !weight.is_cpu() || !is_simd_operand(weight)) {
    const ReferenceInt8 made = quantize_reference(weight.detach().to(torch::kFloat), kLargest, {});
    integers.copy_(made.integers);
    return {integers, made.scales};
  }
  const Tensor dense = weight.detach().contiguous();
  const Tensor scales = at::empty({out}, bytes.dtype(torch::kFloat));
  std::vector<std::int32_t> sums(static_cast<std::size_t>(out));
  quantize_to(dense, out, in,
              {lines.mutable_data_ptr<std::int8_t>(), scales.mutable_data_ptr<float>(), sums.data(),
               stride});
  return {integers, scales};
}

Tensor int8_weights_linear(const Tensor& x, at::TensorList integers, at::TensorList scales,
                           ScalarType dtype) {
  return int8_weights_linear_operator(x, integers, scales, dtype);
}

Tensor int8_weights_linear(const Tensor& x, const std::vector<Int8WeightMatrix>& weights,
                           ScalarType dtype) {
  std::vector<Tensor> integers, scales;
  for (const Int8WeightMatrix& weight : weights) {
    integers.push_back(weight.integers);
    scales.push_back(weight.scales);
  }
  return int8_weights_linear(x, integers, scales, dtype);
}

}  // namespace halftone
