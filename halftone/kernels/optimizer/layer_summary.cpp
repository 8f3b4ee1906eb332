// SPDX-License-Identifier: Apache-2.0
#include "halftone/kernels/optimizer/layer_summary.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <vector>

#include "halftone/core/error.h"
#include "halftone/kernels/common/kernel_type_impl.h"
#include "halftone/kernels/common/operator_impl.h"
#include "halftone/kernels/optimizer/layer_summary_impl.h"

namespace halftone {
namespace {

using torch::Tensor;

constexpr std::int64_t kSummaryChunk = 32768;  // elements; cuts the sums: part of the result
constexpr std::int64_t kGradientFields = 7;
constexpr std::int64_t kUpdateFields = 4;

/// Rows along dimension 0; a vector is one row.
struct Rows {
  std::int64_t count;
  std::int64_t length;
};

Rows rows_of(const Tensor& gradient) {
  const std::int64_t count = gradient.dim() >= 2 ? gradient.size(0) : 1;
  return {count, count == 0 ? 0 : gradient.numel() / count};
}

FloorBits floor_bits(double flushed, double normal) {
  return {.flushed = std::bit_cast<std::int32_t>(static_cast<float>(flushed)),
          .normal = std::bit_cast<std::int32_t>(static_cast<float>(normal))};
}

double total(const std::vector<GradientPart>& parts, std::int64_t GradientPart::*field) {
  std::int64_t sum = 0;
  for (const GradientPart& part : parts) sum += part.*field;
  return static_cast<double>(sum);
}

/// Parts that end with each row, so that a row of zeros is known.
Tensor packed_summary(const std::vector<GradientPart>& parts, const Rows& rows,
                      const Tensor& like) {
  const std::int64_t parts_in_row = (rows.length + kSummaryChunk - 1) / kSummaryChunk;
  double norm_squared = 0.0;
  double largest = 0.0;
  std::int64_t live_zeros = 0;
  auto part = parts.begin();
  for (std::int64_t row = 0; row < rows.count; ++row) {
    std::int64_t zeros = 0;
    for (std::int64_t i = 0; i < parts_in_row; ++i, ++part) {
      norm_squared += part->norm_squared;
      largest = std::max(largest, static_cast<double>(part->largest));
      zeros += part->zeros;
    }
    if (zeros < rows.length) live_zeros += zeros;
  }
  const double zeros = total(parts, &GradientPart::zeros);
  const Tensor packed = at::empty({kGradientFields}, like.options().dtype(torch::kDouble));
  auto* out = packed.mutable_data_ptr<double>();
  out[0] = norm_squared;
  out[1] = largest;
  out[2] = zeros;
  out[3] = static_cast<double>(live_zeros);
  out[4] = std::max(0.0, total(parts, &GradientPart::flushed) - zeros);
  out[5] = std::max(0.0, total(parts, &GradientPart::subnormal) - zeros);
  out[6] = total(parts, &GradientPart::non_finite);
  return packed;
}

Tensor gradient_by_definition(const Tensor& gradient, double flushed, double normal) {
  return gradient_summary_reference(gradient, {flushed, normal});
}

Tensor gradient_by_parts(const Tensor& gradient, double flushed, double normal) {
  if (!is_simd_operand(gradient)) return gradient_by_definition(gradient, flushed, normal);
  const Tensor whole = gradient.contiguous();
  const Rows rows = rows_of(whole);
  const std::int64_t parts_in_row = (rows.length + kSummaryChunk - 1) / kSummaryChunk;
  std::vector<GradientPart> parts(static_cast<std::size_t>(rows.count * parts_in_row));
  const auto* bytes = static_cast<const char*>(whole.const_data_ptr());
  const auto width = static_cast<std::int64_t>(whole.element_size());
  const KernelType type = kernel_type(whole.scalar_type());
  const FloorBits floor = floor_bits(flushed, normal);
  const std::int64_t grain = std::max<std::int64_t>(
      1, kSummaryChunk / std::max<std::int64_t>(1, std::min(rows.length, kSummaryChunk)));
  at::parallel_for(0, std::ssize(parts), grain, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t i = first; i < last; ++i) {
      const std::int64_t begin = i % parts_in_row * kSummaryChunk;
      const std::int64_t size = std::min(kSummaryChunk, rows.length - begin);
      const std::int64_t offset = i / parts_in_row * rows.length + begin;
      parts[static_cast<std::size_t>(i)] =
          summarize_gradient(bytes + offset * width, size, type, floor);
    }
  });
  return packed_summary(parts, rows, whole);
}

Tensor gradient_buffer(const Tensor& gradient, double /*flushed*/, double /*normal*/) {
  return at::empty({kGradientFields}, gradient.options().dtype(torch::kDouble));
}

Tensor update_by_parts(const Tensor& before, const Tensor& after, const Tensor& gradient) {
  const bool is_known = is_simd_operand(after) && (gradient.scalar_type() == torch::kFloat ||
                                                   gradient.scalar_type() == after.scalar_type());
  if (!is_known) return update_summary_reference(before, after, gradient);
  const Tensor was = before.contiguous();
  const Tensor is = after.contiguous();
  const Tensor with = gradient.contiguous();
  const std::int64_t size = is.numel();
  std::vector<UpdatePart> parts(
      static_cast<std::size_t>((size + kSummaryChunk - 1) / kSummaryChunk));
  const auto at_offset = [](const Tensor& tensor, std::int64_t offset) {
    return static_cast<const char*>(tensor.const_data_ptr()) +
           offset * static_cast<std::int64_t>(tensor.element_size());
  };
  at::parallel_for(0, std::ssize(parts), 1, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t i = first; i < last; ++i) {
      const std::int64_t offset = i * kSummaryChunk;
      parts[static_cast<std::size_t>(i)] =
          summarize_update({.before = at_offset(was, offset),
                            .after = at_offset(is, offset),
                            .gradient = at_offset(with, offset),
                            .size = std::min(kSummaryChunk, size - offset),
                            .type = kernel_type(is.scalar_type()),
                            .gradient_type = kernel_type(with.scalar_type())});
    }
  });
  UpdatePart sum{};
  for (const UpdatePart& part : parts) {
    sum.change_squared += part.change_squared;
    sum.weight_squared += part.weight_squared;
    sum.with_gradient += part.with_gradient;
    sum.unchanged += part.unchanged;
  }
  const Tensor packed = at::empty({kUpdateFields}, is.options().dtype(torch::kDouble));
  auto* out = packed.mutable_data_ptr<double>();
  out[0] = sum.change_squared;
  out[1] = sum.weight_squared;
  out[2] = static_cast<double>(sum.with_gradient);
  out[3] = static_cast<double>(sum.unchanged);
  return packed;
}

Tensor update_buffer(const Tensor& /*before*/, const Tensor& after, const Tensor& /*gradient*/) {
  return at::empty({kUpdateFields}, after.options().dtype(torch::kDouble));
}

const Operator<Tensor(const Tensor&, double, double)> gradient_summary_operator(
    "gradient_summary(Tensor gradient, float flushed, float normal) -> Tensor",
    {.reference = gradient_by_definition, .cpu = gradient_by_parts, .meta = gradient_buffer});

const Operator<Tensor(const Tensor&, const Tensor&, const Tensor&)> update_summary_operator(
    "update_summary(Tensor before, Tensor after, Tensor gradient) -> Tensor",
    {.reference = update_summary_reference, .cpu = update_by_parts, .meta = update_buffer});

Tensor as_double(const Tensor& value) { return value.to(torch::kDouble).reshape({1}); }

}  // namespace

FormatFloor format_floor(torch::ScalarType dtype) {
  if (dtype == torch::kHalf)
    return {.flushed = std::ldexp(1.0, -25), .normal = std::ldexp(1.0, -14)};
  if (dtype == torch::kBFloat16)
    return {.flushed = std::ldexp(1.0, -134), .normal = std::ldexp(1.0, -126)};
  return {.flushed = 0.0, .normal = std::ldexp(1.0, -126)};
}

Tensor gradient_summary(const Tensor& gradient, const FormatFloor& floor) {
  const torch::NoGradGuard no_grad;
  HALFTONE_CHECK(gradient.is_floating_point() && gradient.layout() == torch::kStrided,
                 "[gradient_summary] expected a dense floating tensor, got ", gradient.layout(),
                 " of ", gradient.scalar_type());
  return gradient_summary_operator(gradient, floor.flushed, floor.normal);
}

Tensor gradient_summary_reference(const Tensor& gradient, const FormatFloor& floor) {
  const torch::NoGradGuard no_grad;
  const Rows rows = rows_of(gradient);
  const Tensor values = gradient.detach().reshape({rows.count, rows.length});
  const Tensor wide = values.to(torch::kDouble);
  // As integers: a device may flush subnormal numbers when it compares them.
  const Tensor bits = values.to(torch::kFloat).abs().view(torch::kInt);
  const FloorBits bounds = floor_bits(floor.flushed, floor.normal);
  const Tensor zero = bits.eq(0);
  const Tensor finite = wide.isfinite();
  const Tensor live_rows = zero.all(1, /*keepdim=*/true).logical_not();
  const Tensor largest =
      values.numel() == 0
          ? at::zeros({}, wide.options())
          : at::where(finite, wide.abs(), at::zeros({}, wide.options())).to(torch::kFloat).max();
  const auto other = [&](const Tensor& small) { return small.logical_and(zero.logical_not()); };
  return at::cat({as_double(wide.square().sum()), as_double(largest), as_double(zero.sum()),
                  as_double(zero.logical_and(live_rows).sum()),
                  as_double(other(bits.le(bounds.flushed)).sum()),
                  as_double(other(bits.lt(bounds.normal)).sum()),
                  as_double(finite.logical_not().sum())});
}

GradientSummary gradient_summary_of(const Tensor& packed) {
  const Tensor host = packed.cpu();
  const auto* in = host.const_data_ptr<double>();
  const auto count = [&](int field) { return static_cast<std::int64_t>(in[field]); };
  return {.norm_squared = in[0],
          .largest = in[1],
          .zeros = count(2),
          .zeros_in_live_rows = count(3),
          .flushed = count(4),
          .subnormal = count(5),
          .non_finite = count(6)};
}

Tensor update_summary(const Tensor& before, const Tensor& after, const Tensor& gradient) {
  const torch::NoGradGuard no_grad;
  HALFTONE_CHECK(after.is_floating_point() && before.scalar_type() == after.scalar_type() &&
                     before.sizes() == after.sizes() && gradient.sizes() == after.sizes(),
                 "[update_summary] expected two values of a parameter and its gradient, got ",
                 before.scalar_type(), " ", before.sizes(), ", ", after.scalar_type(), " ",
                 after.sizes(), " and a gradient ", gradient.sizes());
  return update_summary_operator(before, after, gradient);
}

Tensor update_summary_reference(const Tensor& before, const Tensor& after, const Tensor& gradient) {
  const torch::NoGradGuard no_grad;
  const Tensor live = gradient.detach().ne(0);
  const Tensor was = before.detach().to(torch::kDouble);
  const Tensor change = after.detach().to(torch::kDouble) - was;
  return at::cat({as_double(change.square().sum()), as_double(was.square().sum()),
                  as_double(live.sum()), as_double(live.logical_and(change.eq(0)).sum())});
}

UpdateSummary update_summary_of(const Tensor& packed) {
  const Tensor host = packed.cpu();
  const auto* in = host.const_data_ptr<double>();
  return {.change_squared = in[0],
          .weight_squared = in[1],
          .with_gradient = static_cast<std::int64_t>(in[2]),
          .unchanged = static_cast<std::int64_t>(in[3])};
}

}  // namespace halftone
