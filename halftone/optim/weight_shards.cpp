// SPDX-License-Identifier: Apache-2.0
#include "halftone/optim/weight_shards.h"

#include <algorithm>
#include <set>
#include <utility>

namespace halftone {

WeightShards::WeightShards(const ParameterArena& arena, ProcessGroup& group)
    : arena_(arena), group_(group), bucket_of_(arena.size()), was_resharded_(arena.size()) {
  for (GradientBucket& place : gradient_buckets(arena, group.size())) {
    for (const std::size_t i : place.parameters) bucket_of_[i] = buckets_.size();
    const std::size_t users = place.parameters.size();
    buckets_.push_back({.place = std::move(place), .users = users, .coming = {}});
  }
}

const torch::Tensor& WeightShards::flat_of(const Bucket& bucket) const {
  return arena_.buffers()[bucket.place.buffer].weights;
}

std::vector<std::size_t> WeightShards::buckets_of(
    const std::vector<std::size_t>& parameters) const {
  std::set<std::size_t> found;
  for (const std::size_t i : parameters) found.insert(bucket_of_.at(i));
  return {found.begin(), found.end()};
}

void WeightShards::begin_to_bring(Bucket& bucket) {
  if (!bucket.coming) bucket.coming.emplace(group_, flat_of(bucket), bucket.place.pieces);
}

void WeightShards::finish_bringing(Bucket& bucket) {
  bucket.coming->finish();
  bucket.coming.reset();
  bucket.is_complete = true;
}

// One comes in while the one before it is put in its place.
void WeightShards::bring(const std::vector<Bucket*>& buckets) {
  const torch::NoGradGuard no_grad;
  for (std::size_t i = 0; i < buckets.size(); ++i) {
    begin_to_bring(*buckets[i]);
    if (i + 1 < buckets.size()) begin_to_bring(*buckets[i + 1]);
    finish_bringing(*buckets[i]);
  }
}

std::vector<WeightShards::Bucket*> WeightShards::missing(
    const std::vector<std::size_t>& parameters) {
  std::vector<Bucket*> found;
  for (const std::size_t b : buckets_of(parameters))
    if (!buckets_[b].is_complete) found.push_back(&buckets_[b]);
  return found;
}

void WeightShards::prefetch(const std::vector<std::size_t>& parameters) {
  const torch::NoGradGuard no_grad;
  for (Bucket* const bucket : missing(parameters)) begin_to_bring(*bucket);
  claimed_ = buckets_of(parameters);
  for (const std::size_t b : claimed_) ++buckets_[b].users;
}

void WeightShards::drop_prefetched() {
  const torch::NoGradGuard no_grad;
  for (const std::size_t b : std::exchange(claimed_, {})) {
    Bucket& bucket = buckets_[b];
    if (bucket.coming) finish_bringing(bucket);
    if (--bucket.users == 0 && !is_kept_ && bucket.is_complete) drop(bucket);
  }
}

void WeightShards::drop(Bucket& bucket) {
  clear_others(flat_of(bucket), bucket.place, group_.rank());
  bucket.is_complete = false;
}

void WeightShards::unshard(const std::vector<std::size_t>& parameters) {
  bring(missing(parameters));
  for (const std::size_t i : parameters) ++buckets_[bucket_of_.at(i)].users;
  drop_prefetched();
}

void WeightShards::reshard(const std::vector<std::size_t>& parameters) {
  for (const std::size_t i : parameters) {
    Bucket& bucket = buckets_[bucket_of_.at(i)];
    --bucket.users;
    if (std::exchange(was_resharded_[i], 1) == 0) --bucket.users;
  }
  if (is_kept_) return;
  for (const std::size_t b : buckets_of(parameters))
    if (buckets_[b].users == 0 && buckets_[b].is_complete) drop(buckets_[b]);
}

bool WeightShards::is_complete() const {
  return std::all_of(buckets_.begin(), buckets_.end(),
                     [](const Bucket& bucket) { return bucket.is_complete; });
}

void WeightShards::refresh() {
  std::vector<Bucket*> complete;
  for (Bucket& bucket : buckets_)
    if (bucket.is_complete) complete.push_back(&bucket);
  bring(complete);
}

void WeightShards::complete(std::int64_t root) {
  is_kept_ = root < 0 || root == group_.rank();
  for (Bucket& bucket : buckets_) {
    if (bucket.is_complete) continue;
    bring({&bucket});
    if (!is_kept_) drop(bucket);
  }
}

void WeightShards::drop_unused() {
  is_kept_ = false;
  for (Bucket& bucket : buckets_)
    if (bucket.users == 0 && bucket.is_complete) drop(bucket);
}

}  // namespace halftone
