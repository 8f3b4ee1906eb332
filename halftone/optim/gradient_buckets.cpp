// SPDX-License-Identifier: Apache-2.0
#include "halftone/optim/gradient_buckets.h"

#include <algorithm>

#include "halftone/system/large_pages.h"

namespace halftone {
namespace {

/// The buffer's parameters from the last one on, as many to a bucket as make up `least` elements.
void cut_buffer(const ParameterArena& arena, std::size_t buffer, std::int64_t least,
                std::vector<GradientBucket>& buckets) {
  const ParameterArena::Buffer& own = arena.buffers()[buffer];
  GradientBucket bucket{.buffer = buffer};
  std::int64_t end = own.weights.numel();
  for (std::size_t k = own.parameters.size(); k-- > 0;) {
    const std::int64_t begin = k == 0 ? 0 : arena.place(own.parameters[k]).range.begin;
    bucket.parameters.insert(bucket.parameters.begin(), own.parameters[k]);
    if (end - begin < least && k > 0) continue;
    bucket.range = {begin, end};
    if (end > begin) buckets.push_back(bucket);
    bucket = {.buffer = buffer};
    end = begin;
  }
}

/// Where pieces may meet.
std::vector<std::int64_t> cuts_of(const ParameterArena& arena, const GradientBucket& bucket) {
  std::vector<std::int64_t> cuts{bucket.range.begin};
  for (const std::size_t i : bucket.parameters) {
    const Range range = arena.place(i).range;
    for (std::int64_t at = range.begin; at < range.end; at += kGradientStatsChunk)
      if (at > cuts.back()) cuts.push_back(at);
  }
  cuts.push_back(bucket.range.end);
  return cuts;
}

std::vector<Range> pieces_of(const ParameterArena& arena, const GradientBucket& bucket,
                             std::int64_t processes) {
  const std::vector<std::int64_t> cuts = cuts_of(arena, bucket);
  const std::int64_t size = bucket.range.end - bucket.range.begin;
  std::vector<Range> pieces;
  std::int64_t begin = bucket.range.begin;
  for (std::int64_t r = 1; r <= processes; ++r) {
    const std::int64_t wanted = bucket.range.begin + size * r / processes;
    const auto after = std::lower_bound(cuts.begin(), cuts.end(), wanted);
    std::int64_t end = *after;
    if (after != cuts.begin() && wanted - *(after - 1) < end - wanted) end = *(after - 1);
    end = std::max(end, begin);
    pieces.push_back({begin, end});
    begin = end;
  }
  return pieces;
}

}  // namespace

std::vector<GradientBucket> gradient_buckets(const ParameterArena& arena, std::int64_t processes) {
  std::vector<GradientBucket> buckets;
  for (std::size_t b = 0; b < arena.buffers().size(); ++b) {
    const ParameterArena::Buffer& buffer = arena.buffers()[b];
    const torch::Tensor& flat = buffer.gradients.defined() ? buffer.gradients : buffer.weights;
    cut_buffer(arena, b, arena.bucket_bytes() / static_cast<std::int64_t>(flat.element_size()),
               buckets);
  }
  for (GradientBucket& bucket : buckets) bucket.pieces = pieces_of(arena, bucket, processes);
  const auto first_of = [](const GradientBucket& bucket) {
    return *std::min_element(bucket.parameters.begin(), bucket.parameters.end());
  };
  std::stable_sort(buckets.begin(), buckets.end(),
                   [&](const auto& a, const auto& b) { return first_of(a) > first_of(b); });
  return buckets;
}

void clear_others(const torch::Tensor& flat, const GradientBucket& bucket, std::int64_t rank) {
  for (std::int64_t r = 0; r < std::ssize(bucket.pieces); ++r) {
    const Range piece = bucket.pieces[static_cast<std::size_t>(r)];
    if (r == rank || piece.begin == piece.end) continue;
    const torch::Tensor others = flat.narrow(0, piece.begin, piece.end - piece.begin);
    if (others.is_cpu())
      clear_pages(others);
    else
      others.zero_();
  }
}

}  // namespace halftone
