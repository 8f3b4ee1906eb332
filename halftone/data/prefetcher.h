// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

#include "halftone/core/error.h"

namespace halftone {

/// Batches that are made before a training step takes them.
inline constexpr std::size_t kBatchesAhead = 4;

/// Makes the values of consecutive positions on a thread of its own, a few ahead of the thread that
/// takes them. One thread may take. The thread starts with the first take() and has ended when the
/// destructor returns.
template <class Value>
class Prefetcher {
 public:
  using Make = std::function<Value(std::int64_t position)>;

  /// `make` is called on the other thread, for one position after the other up to `end`, if there
  /// is one. At most `ahead` values wait, besides the one that is being made.
  Prefetcher(Make make, std::size_t ahead, std::optional<std::int64_t> end = {})
      : make_(std::move(make)), ahead_(ahead), end_(end) {}
  ~Prefetcher() { stop(); }
  Prefetcher(const Prefetcher&) = delete;
  Prefetcher& operator=(const Prefetcher&) = delete;

  /// The value of `position`, or what make() threw for it. Any position before the end may be asked
  /// for; one that does not follow the last begins anew there.
  Value take(std::int64_t position) {
    HALFTONE_CHECK(!end_ || position < *end_, "[prefetcher] expected a position before ",
                   end_.value_or(0), ", got ", position);
    if (position != next_) restart(position);
    std::unique_lock lock(mutex_);
    filled_.wait(lock, [this] { return !waiting_.empty(); });
    Item item = std::move(waiting_.front());
    waiting_.pop_front();
    lock.unlock();
    room_.notify_one();
    next_ = item.error ? std::nullopt : std::optional(position + 1);
    if (item.error) std::rethrow_exception(item.error);
    return std::move(*item.value);
  }

 private:
  struct Item {
    std::optional<Value> value;
    std::exception_ptr error;
  };

  void restart(std::int64_t position) {
    stop();
    waiting_.clear();
    stopping_ = false;
    thread_ = std::thread([this, position] { run(position); });
  }

  void stop() {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    room_.notify_one();
    if (thread_.joinable()) thread_.join();
  }

  /// Up to the first error: what would come behind it is nobody's.
  void run(std::int64_t position) {
    for (bool failed = false; !failed && (!end_ || position < *end_); ++position) {
      Item item;
      try {
        item.value.emplace(make_(position));
      } catch (...) {
        item.error = std::current_exception();
        failed = true;
      }
      std::unique_lock lock(mutex_);
      room_.wait(lock, [this] { return stopping_ || waiting_.size() < ahead_; });
      if (stopping_) return;
      waiting_.push_back(std::move(item));
      lock.unlock();
      filled_.notify_one();
    }
  }

  Make make_;
  std::size_t ahead_;
  std::optional<std::int64_t> end_;
  std::optional<std::int64_t> next_;  // what the thread's first value is of

  std::mutex mutex_;
  std::condition_variable filled_;
  std::condition_variable room_;
  std::deque<Item> waiting_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace halftone
