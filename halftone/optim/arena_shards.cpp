// SPDX-License-Identifier: Apache-2.0
#include "halftone/optim/arena_shards.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "halftone/optim/pieces_under_way.h"

namespace halftone {
namespace {

std::int64_t length_of(const Range& range) { return range.end - range.begin; }

}  // namespace

Range common(const Range& a, const Range& b) {
  const std::int64_t begin = std::max(a.begin, b.begin);
  return {begin, std::max(begin, std::min(a.end, b.end))};
}

ArenaShards::ArenaShards(const ParameterArena& arena, std::shared_ptr<ProcessGroup> group)
    : arena_(arena), group_(std::move(group)), owned_(arena.buffers().size()) {
  if (!group_) {
    for (std::size_t b = 0; b < owned_.size(); ++b)
      owned_[b] = {{0, arena.buffers()[b].weights.numel()}};
    return;
  }
  buckets_ = gradient_buckets(arena, group_->size());
  for (const GradientBucket& bucket : buckets_) {
    const Range& own = bucket.pieces[static_cast<std::size_t>(group_->rank())];
    if (length_of(own) > 0) owned_[bucket.buffer].push_back(own);
  }
  for (std::vector<Range>& ranges : owned_)
    std::sort(ranges.begin(), ranges.end(),
              [](const Range& a, const Range& b) { return a.begin < b.begin; });
}

void ArenaShards::gather_weights() const {
  if (is_whole()) return;
  const torch::NoGradGuard no_grad;
  std::optional<PiecesUnderWay> before;
  for (const GradientBucket& bucket : buckets_) {
    PiecesUnderWay next(*group_, arena_.buffers()[bucket.buffer].weights, bucket.pieces);
    if (before) before->finish();
    before.emplace(std::move(next));
  }
  if (before) before->finish();
}

// Sums of chunks in the order in which all processes know them, and whose they are.
std::vector<ArenaShards::Chunk> ArenaShards::chunks_of(const GradientBucket& bucket) const {
  std::vector<Chunk> chunks;
  std::size_t owner = 0;
  for (const std::size_t i : bucket.parameters) {
    const Range whole = arena_.place(i).range;
    for (std::int64_t at = whole.begin; at < whole.end; at += kGradientStatsChunk) {
      while (bucket.pieces[owner].end <= at) ++owner;
      chunks.push_back({i, owner, {at, std::min(at + kGradientStatsChunk, whole.end)}});
    }
  }
  return chunks;
}

std::vector<double> ArenaShards::own_chunk_stats() const {
  std::vector<double> own;
  for (const GradientBucket& bucket : buckets_) {
    std::vector<Range> ranges;
    for (const Chunk& chunk : chunks_of(bucket))
      if (chunk.owner == static_cast<std::size_t>(group_->rank())) ranges.push_back(chunk.range);
    const RangeStats stats = gradient_stats(arena_.buffers()[bucket.buffer].gradients, ranges);
    const torch::Tensor sums = stats.norm_squared.cpu(), bad = stats.non_finite.cpu();
    for (std::size_t k = 0; k < ranges.size(); ++k)
      own.insert(own.end(), {sums.const_data_ptr<double>()[k],
                             static_cast<double>(bad.const_data_ptr<std::int64_t>()[k])});
  }
  return own;
}

// The chunks of a parameter are added in the order in which one process adds its own.
GradientStats ArenaShards::gather_stats() const {
  if (is_whole()) return arena_.stats();
  const torch::NoGradGuard no_grad;
  for (std::size_t i = 0; i < arena_.size(); ++i) arena_.has_gradient(i);  // brings it to its place
  const std::vector<std::vector<double>> all = all_gather_numbers(*group_, own_chunk_stats());
  std::vector<std::size_t> read(all.size());  // of each process's numbers
  const auto count = static_cast<std::int64_t>(arena_.size());
  torch::Tensor norm_squared = torch::zeros({count}, torch::kDouble);
  torch::Tensor non_finite = torch::zeros({count}, torch::kLong);
  for (const GradientBucket& bucket : buckets_) {
    for (const Chunk& chunk : chunks_of(bucket)) {
      std::size_t& at = read[chunk.owner];
      norm_squared.mutable_data_ptr<double>()[chunk.parameter] += all[chunk.owner].at(at);
      non_finite.mutable_data_ptr<std::int64_t>()[chunk.parameter] +=
          static_cast<std::int64_t>(all[chunk.owner].at(at + 1));
      at += 2;
    }
  }
  const torch::Device device = arena_.buffers().front().weights.device();
  return {norm_squared.sum().to(device), non_finite.to(device)};
}

}  // namespace halftone
