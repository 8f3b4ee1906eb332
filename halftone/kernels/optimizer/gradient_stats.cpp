// SPDX-License-Identifier: Apache-2.0
#include "halftone/kernels/optimizer/gradient_stats.h"

#include <ATen/Parallel.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <tuple>

#include "halftone/core/error.h"
#include "halftone/kernels/common/fused_kernels.h"
#include "halftone/kernels/common/kernel_type_impl.h"
#include "halftone/kernels/common/operator_impl.h"
#include "halftone/kernels/optimizer/adamw_impl.h"

namespace halftone {
namespace {

using torch::Tensor;

constexpr std::int64_t kChunk = kGradientStatsChunk;

std::vector<Range> cut(const std::vector<Range>& ranges) {
  std::vector<Range> chunks;
  for (const Range& range : ranges)
    for (std::int64_t begin = range.begin; begin < range.end; begin += kChunk)
      chunks.push_back({begin, std::min(begin + kChunk, range.end)});
  return chunks;
}

using Stats = std::tuple<Tensor, Tensor>;  // norm_squared, non_finite
using StatsSignature = Stats(const Tensor& flat, at::IntArrayRef bounds);

/// `bounds`: where each range begins and ends, in turn. Schemas know no pairs.
std::vector<Range> ranges_of(at::IntArrayRef bounds) {
  std::vector<Range> ranges;
  for (std::size_t i = 0; i + 1 < bounds.size(); i += 2)
    ranges.push_back({bounds[i], bounds[i + 1]});
  return ranges;
}

void check(const Tensor& flat, const std::vector<Range>& ranges) {
  const torch::ScalarType dtype = flat.scalar_type();
  HALFTONE_CHECK(dtype == torch::kFloat || dtype == torch::kBFloat16 || dtype == torch::kHalf,
                 "[gradient_stats] expected fp32, bf16 or fp16, got ", dtype);
  HALFTONE_CHECK(flat.dim() == 1 && flat.is_contiguous(),
                 "[gradient_stats] expected a flat, contiguous tensor, got the shape ",
                 flat.sizes());
  for (const Range& range : ranges)
    HALFTONE_CHECK(0 <= range.begin && range.begin <= range.end && range.end <= flat.numel(),
                   "[gradient_stats] the range ", range.begin, "..", range.end, " leaves the ",
                   flat.numel(), " elements");
}

Stats stats_by_definition(const Tensor& flat, at::IntArrayRef bounds) {
  const std::vector<Range> ranges = ranges_of(bounds);
  check(flat, ranges);
  const RangeStats stats = gradient_stats_reference(flat, ranges);
  return {stats.norm_squared, stats.non_finite};
}

Stats stats_buffers(const Tensor& flat, at::IntArrayRef bounds) {
  const auto count = static_cast<std::int64_t>(bounds.size()) / 2;
  return {at::zeros({count}, flat.options().dtype(torch::kDouble)),
          at::zeros({count}, flat.options().dtype(torch::kLong))};
}

Stats stats_by_chunks(const Tensor& flat, at::IntArrayRef bounds) {
  if (!is_fused(FusedKernel::kGradientStats) || !has_simd_kernels())
    return stats_by_definition(flat, bounds);
  const std::vector<Range> ranges = ranges_of(bounds);
  check(flat, ranges);
  const std::vector<Range> chunks = cut(ranges);
  std::vector<SquareSum> sums(chunks.size());
  const KernelType type = kernel_type(flat.scalar_type());
  const auto* bytes = static_cast<const char*>(flat.const_data_ptr());
  const auto width = static_cast<std::int64_t>(flat.element_size());
  at::parallel_for(
      0, static_cast<std::int64_t>(chunks.size()), 1, [&](std::int64_t first, std::int64_t last) {
        for (std::int64_t i = first; i < last; ++i) {
          const Range& chunk = chunks[static_cast<std::size_t>(i)];
          sums[static_cast<std::size_t>(i)] =
              sum_of_squares(bytes + chunk.begin * width, chunk.end - chunk.begin, type);
        }
      });

  const Stats stats = stats_buffers(flat, bounds);
  auto* norm_squared = std::get<0>(stats).mutable_data_ptr<double>();
  auto* non_finite = std::get<1>(stats).mutable_data_ptr<std::int64_t>();
  auto sum = sums.begin();
  for (const Range& range : ranges) {
    for (std::int64_t begin = range.begin; begin < range.end; begin += kChunk, ++sum) {
      *norm_squared += sum->sum;
      *non_finite += sum->non_finite;
    }
    ++norm_squared;
    ++non_finite;
  }
  return stats;
}

const Operator<StatsSignature> gradient_stats_operator(
    "gradient_stats(Tensor flat, int[] bounds) -> (Tensor, Tensor)",
    {.reference = stats_by_definition, .cpu = stats_by_chunks, .meta = stats_buffers});

}  // namespace

RangeStats gradient_stats(const torch::Tensor& flat, const std::vector<Range>& ranges) {
  std::vector<std::int64_t> bounds;
  for (const Range& range : ranges) bounds.insert(bounds.end(), {range.begin, range.end});
  const auto [norm_squared, non_finite] = gradient_stats_operator(flat, bounds);
  return {norm_squared, non_finite};
}

RangeStats gradient_stats_reference(const torch::Tensor& flat, const std::vector<Range>& ranges) {
  const torch::NoGradGuard no_grad;
  std::vector<torch::Tensor> norm_squared = {
      torch::zeros({0}, flat.options().dtype(torch::kDouble))};
  std::vector<torch::Tensor> non_finite = {torch::zeros({0}, flat.options().dtype(torch::kLong))};
  for (const Range& range : ranges) {
    const torch::Tensor part = flat.narrow(0, range.begin, range.end - range.begin);
    norm_squared.push_back(part.to(torch::kDouble).square().sum().reshape({1}));
    non_finite.push_back(part.isfinite().logical_not().sum().reshape({1}));
  }
  return {torch::cat(norm_squared), torch::cat(non_finite)};
}

}  // namespace halftone
