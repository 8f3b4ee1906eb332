// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <unordered_map>
#include <vector>

namespace halftone {

/// Freed blocks that a BlockPool keeps are at most this part of the most that was in use at once.
/// With less, a training step gets new pages again and again.
inline constexpr std::size_t kWaitingPart = 6;

/// Large blocks of memory straight from the system, so that each can go back to it by itself; a
/// heap keeps the gaps between what lives on. Freed blocks wait here for the next of about their
/// size, while all together are at most a sixth more than what was in use at once. Safe to use from
/// several threads.
class BlockPool {
 public:
  struct Usage {
    std::size_t in_use = 0;  // bytes
    std::size_t peak = 0;    // the most that was in use at once, since release()
    std::size_t mapped = 0;  // in use or waiting
  };

  BlockPool() = default;
  ~BlockPool();  // blocks in use stay
  BlockPool(const BlockPool&) = delete;
  BlockPool& operator=(const BlockPool&) = delete;

  /// At least `bytes` > 0, on a cache line's boundary; nullptr where the system has none.
  void* allocate(std::size_t bytes);
  /// False where `address` is not of this pool's blocks in use.
  bool free(void* address);
  /// Hands back what waits, and lets the peaks begin anew.
  void release();
  Usage usage() const;
  /// The most that was in use at once since the last call or release().
  std::size_t take_recent_peak();

 private:
  struct Block {
    char* base = nullptr;
    std::size_t size = 0;
    std::size_t offset = 0;  // of what the caller gets
  };

  bool take_waiting(std::size_t bytes, Block& block);
  bool map(std::size_t bytes, Block& block);
  void make_room(std::size_t bytes);
  void unmap(const Block& block);

  mutable std::mutex mutex_;
  std::unordered_map<void*, Block> in_use_;
  std::vector<Block> waiting_;  // in the order in which they were freed
  Usage usage_;
  std::size_t recent_peak_ = 0;
  std::size_t mapped_blocks_ = 0;
};

}  // namespace halftone
