// SPDX-License-Identifier: Apache-2.0
#include "halftone/optim/arena_shards.h"

#include <algorithm>
#include <optional>
#include <utility>

namespace halftone {
namespace {

std::int64_t length_of(const Range& range) { return range.end - range.begin; }

/// Pieces of a flat tensor under way from their owners to all.
class PiecesUnderWay {
 public:
  PiecesUnderWay(ProcessGroup& group, torch::Tensor flat, const std::vector<Range>& pieces)
      : rank_(static_cast<std::size_t>(group.rank())), flat_(std::move(flat)), pieces_(pieces) {
    std::int64_t longest = 0;
    for (const Range& piece : pieces) longest = std::max(longest, length_of(piece));
    all_ = torch::empty({group.size(), longest}, flat_.options());
    const torch::Tensor own = all_[group.rank()];
    own.narrow(0, 0, length_of(pieces[rank_])).copy_(part(rank_));
    pending_ = group.all_gather(all_, own);
  }
  void finish() {
    pending_->wait();
    for (std::size_t r = 0; r < pieces_.size(); ++r)
      if (r != rank_)
        part(r).copy_(all_[static_cast<std::int64_t>(r)].narrow(0, 0, length_of(pieces_[r])));
  }

 private:
  torch::Tensor part(std::size_t r) const {
    return flat_.narrow(0, pieces_[r].begin, length_of(pieces_[r]));
  }

  std::size_t rank_;
  torch::Tensor flat_;
  std::vector<Range> pieces_;
  torch::Tensor all_;  // (processes, longest piece)
  ProcessGroup::Pending pending_;
};

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

// A parameter lies in one bucket, of which a process has one piece.
Range ArenaShards::owned_part(std::size_t parameter) const {
  const ParameterArena::Place place = arena_.place(parameter);
  for (const Range& own : owned_[place.buffer])
    if (const Range part = common(own, place.range); length_of(part) > 0) return part;
  return {place.range.begin, place.range.begin};
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

// Each process sends the sums of its chunks, which are added in the order in which one process
// adds its own.
std::vector<double> ArenaShards::own_chunk_stats() const {
  std::vector<double> own;
  for (std::size_t i = 0; i < arena_.size(); ++i) {
    const Range part = owned_part(i);
    if (length_of(part) == 0 || !arena_.has_gradient(i)) continue;
    std::vector<Range> chunks;
    for (std::int64_t at = part.begin; at < part.end; at += kGradientStatsChunk)
      chunks.push_back({at, std::min(at + kGradientStatsChunk, part.end)});
    const ParameterArena::Place place = arena_.place(i);
    const RangeStats stats = gradient_stats(arena_.buffers()[place.buffer].gradients, chunks);
    const torch::Tensor sums = stats.norm_squared.cpu(), bad = stats.non_finite.cpu();
    const std::int64_t first = (part.begin - place.range.begin) / kGradientStatsChunk;
    for (std::int64_t k = 0; k < std::ssize(chunks); ++k)
      own.insert(own.end(), {static_cast<double>(i), static_cast<double>(first + k),
                             sums[k].item<double>(), bad[k].item<double>()});
  }
  return own;
}

GradientStats ArenaShards::gather_stats() const {
  if (is_whole()) return arena_.stats();
  const torch::NoGradGuard no_grad;
  struct Chunk {
    double parameter, index, sum, bad;
  };
  std::vector<Chunk> chunks;
  for (const std::vector<double>& one : all_gather_numbers(*group_, own_chunk_stats()))
    for (std::size_t k = 0; k < one.size(); k += 4)
      chunks.push_back({one[k], one[k + 1], one[k + 2], one[k + 3]});
  std::sort(chunks.begin(), chunks.end(), [](const Chunk& a, const Chunk& b) {
    return std::pair(a.parameter, a.index) < std::pair(b.parameter, b.index);
  });
  const auto count = static_cast<std::int64_t>(arena_.size());
  torch::Tensor norm_squared = torch::zeros({count}, torch::kDouble);
  torch::Tensor non_finite = torch::zeros({count}, torch::kLong);
  for (const Chunk& chunk : chunks) {
    const auto i = static_cast<std::int64_t>(chunk.parameter);
    norm_squared.mutable_data_ptr<double>()[i] += chunk.sum;
    non_finite.mutable_data_ptr<std::int64_t>()[i] += static_cast<std::int64_t>(chunk.bad);
  }
  const torch::Device device = arena_.buffers().front().weights.device();
  return {norm_squared.sum().to(device), non_finite.to(device)};
}

}  // namespace halftone
