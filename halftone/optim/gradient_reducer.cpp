// SPDX-License-Identifier: Apache-2.0
#include "halftone/optim/gradient_reducer.h"

#include <c10/util/ParallelGuard.h>

#include <string>
#include <utility>

#include "halftone/core/error.h"

namespace halftone {

GradientReducer::GradientReducer(std::vector<const ParameterArena*> arenas, ProcessGroup& group,
                                 GradientTransport transport, GradientTree* tree)
    : group_(group), transport_(transport), tree_(tree) {
  for (const ParameterArena* const arena : arenas) {
    arenas_.push_back({.arena = arena, .bucket_of = std::vector<std::size_t>(arena->size())});
    add_buckets(arenas_.size() - 1, group.size());
  }
}

GradientReducer::~GradientReducer() {
  for (Arena& arena : arenas_) arena.hooks.reset();
  if (!thread_.joinable()) return;
  release();
  thread_.join();
}

void GradientReducer::add_buckets(std::size_t arena, std::int64_t processes) {
  Arena& own = arenas_[arena];
  for (GradientBucket& place : gradient_buckets(*own.arena, processes)) {
    HALFTONE_CHECK(own.arena->buffers()[place.buffer].gradients.defined(),
                   "[gradient_reducer] expected gradients that are kept until the step");
    for (const std::size_t i : place.parameters) own.bucket_of[i] = buckets_.size();
    buckets_.push_back({.arena = own.arena, .place = std::move(place), .missing = 0});
  }
}

void GradientReducer::start() {
  HALFTONE_CHECK(!thread_.joinable(), "[gradient_reducer] expected finish() before the next step");
  for (Bucket& bucket : buckets_) bucket.missing = bucket.place.parameters.size();
  for (Arena& arena : arenas_) {
    arena.has_gradient.assign(arena.arena->size(), 0);
    arena.is_ready.assign(arena.arena->size(), 0);
  }
  released_ = 0;
  error_ = nullptr;
  thread_ = std::thread([this] { run(); });
}

void GradientReducer::begin() {
  start();
  for (std::size_t a = 0; a < arenas_.size(); ++a)
    arenas_[a].hooks = std::make_unique<GradReadyHooks>(
        *arenas_[a].arena, [this, a](std::size_t index) { note_ready(a, index); });
}

void GradientReducer::note_ready(std::size_t arena, std::size_t index) {
  Arena& own = arenas_[arena];
  own.has_gradient[index] = own.arena->has_gradient(index) ? 1 : 0;
  own.is_ready[index] = 1;
  const std::lock_guard lock(mutex_);
  --buckets_[own.bucket_of[index]].missing;
  const std::size_t before = released_;
  while (released_ < buckets_.size() && buckets_[released_].missing == 0) ++released_;
  if (released_ > before) released_more_.notify_one();
}

void GradientReducer::release() {
  const std::lock_guard lock(mutex_);
  released_ = buckets_.size();
  released_more_.notify_one();
}

void GradientReducer::wait_for(std::size_t bucket) {
  std::unique_lock lock(mutex_);
  released_more_.wait(lock, [&] { return released_ > bucket; });
}

std::unique_ptr<GradientSum> GradientReducer::send(const Bucket& bucket) {
  const Range range = bucket.place.range;
  std::vector<Range> pieces = bucket.place.pieces;
  for (Range& piece : pieces) piece = {piece.begin - range.begin, piece.end - range.begin};
  if (tree_ != nullptr) tree_->add_to(*bucket.arena, bucket.place.buffer, range);
  return std::make_unique<GradientSum>(group_, gradients_of(bucket), std::move(pieces), transport_);
}

torch::Tensor GradientReducer::gradients_of(const Bucket& bucket) const {
  const Range range = bucket.place.range;
  return bucket.arena->buffers()[bucket.place.buffer].gradients.narrow(0, range.begin,
                                                                       range.end - range.begin);
}

// One bucket goes out while the sum of the one before comes in.
void GradientReducer::run() try {
  const c10::ParallelGuard on_this_thread(true);  // the others compute
  std::unique_ptr<GradientSum> before;
  for (std::size_t b = 0; b < buckets_.size(); ++b) {
    wait_for(b);
    std::unique_ptr<GradientSum> sum = send(buckets_[b]);
    if (keeps_own_) {
      const Bucket& sent = buckets_[b];
      clear_others(sent.arena->buffers()[sent.place.buffer].gradients, sent.place,
                   group_.rank());  // what is sent has been copied
      if (before) before->finish_own();
      before = std::move(sum);
      continue;
    }
    if (before) before->finish();
    sum->add_up();
    before = std::move(sum);
  }
  if (!before) return;
  if (keeps_own_)
    before->finish_own();
  else
    before->finish();
} catch (...) {
  error_ = std::current_exception();
}

void GradientReducer::finish() {
  if (!thread_.joinable()) start();
  for (Arena& arena : arenas_) {
    arena.hooks.reset();
    for (std::size_t i = 0; i < arena.is_ready.size(); ++i)
      if (arena.is_ready[i] == 0) arena.has_gradient[i] = arena.arena->has_gradient(i) ? 1 : 0;
  }
  release();
  thread_.join();
  if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
  if (tree_ != nullptr) tree_->reset();
  agree_on_gradients();
}

void GradientReducer::agree_on_gradients() {
  std::string own;
  for (const Arena& arena : arenas_)
    own.append(arena.has_gradient.begin(), arena.has_gradient.end());
  const std::vector<std::string> all = group_.all_gather(own);
  std::size_t at = 0;
  for (const Arena& arena : arenas_) {
    for (std::size_t i = 0; i < arena.has_gradient.size(); ++i, ++at) {
      bool anywhere = false;
      for (const std::string& one : all) anywhere = anywhere || one.at(at) != 0;
      if (anywhere && arena.has_gradient[i] == 0) arena.arena->note_gradient(i);
    }
  }
}

}  // namespace halftone
