// SPDX-License-Identifier: Apache-2.0
#include "halftone/system/block_pool.h"

#include <algorithm>
#include <utility>

#include "halftone/system/system_pages.h"

namespace halftone {
namespace {

/// A waiting block serves what is up to an eighth smaller.
constexpr bool serves(std::size_t size, std::size_t bytes) {
  return size >= bytes && size - bytes <= bytes / 8;
}

/// Where blocks begin: were it at the same place of their pages, the rows of several tensors that a
/// kernel reads together would fall into the same sets of a cache.
constexpr std::size_t kStarts = 7;
constexpr std::size_t kStartStep = 576;  // nine cache lines

}  // namespace

BlockPool::~BlockPool() { release(); }

void* BlockPool::allocate(std::size_t bytes) {
  const std::lock_guard<std::mutex> lock(mutex_);
  Block block;
  const std::size_t size = whole_pages(bytes + (kStarts - 1) * kStartStep);
  if (!take_waiting(size, block) && !map(size, block)) return nullptr;
  usage_.in_use += block.size;
  usage_.peak = std::max(usage_.peak, usage_.in_use);
  recent_peak_ = std::max(recent_peak_, usage_.in_use);
  void* const address = block.base + block.offset;
  in_use_.emplace(address, block);
  return address;
}

bool BlockPool::free(void* address) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto found = in_use_.find(address);
  if (found == in_use_.end()) return false;
  usage_.in_use -= found->second.size;
  waiting_.push_back(found->second);
  in_use_.erase(found);
  return true;
}

void BlockPool::release() {
  const std::lock_guard<std::mutex> lock(mutex_);
  for (const Block& block : waiting_) unmap(block);
  waiting_.clear();
  usage_.peak = recent_peak_ = usage_.in_use;
}

BlockPool::Usage BlockPool::usage() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return usage_;
}

std::size_t BlockPool::take_recent_peak() {
  const std::lock_guard<std::mutex> lock(mutex_);
  return std::exchange(recent_peak_, usage_.in_use);
}

bool BlockPool::take_waiting(std::size_t bytes, Block& block) {
  auto best = waiting_.end();
  for (auto one = waiting_.begin(); one != waiting_.end(); ++one)
    if (serves(one->size, bytes) && (best == waiting_.end() || one->size <= best->size)) best = one;
  if (best == waiting_.end()) return false;
  block = *best;
  waiting_.erase(best);
  return true;
}

bool BlockPool::map(std::size_t bytes, Block& block) {
  make_room(bytes);
  block = {.base = static_cast<char*>(map_pages(bytes)),
           .size = bytes,
           .offset = mapped_blocks_++ % kStarts * kStartStep};
  if (block.base == nullptr) return false;
  usage_.mapped += bytes;
  return true;
}

void BlockPool::make_room(std::size_t bytes) {
  const std::size_t most = std::max(usage_.peak, usage_.in_use + bytes);
  const std::size_t limit = most + most / kWaitingPart;
  auto kept = waiting_.begin();
  for (; kept != waiting_.end() && usage_.mapped + bytes > limit; ++kept) unmap(*kept);
  waiting_.erase(waiting_.begin(), kept);
}

void BlockPool::unmap(const Block& block) {
  unmap_pages(block.base, block.size);
  usage_.mapped -= block.size;
}

}  // namespace halftone
