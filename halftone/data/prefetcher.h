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
#include <vector>

#include "halftone/core/error.h"

namespace halftone {

/// Batches that are made before a training step takes them.
inline constexpr std::size_t kBatchesAhead = 4;

/// Makes the values of consecutive positions on threads of its own, a few ahead of the thread that
/// takes them, and gives them in order. One thread may take. The threads start with the first
/// take() and have ended when the destructor returns, which waits for what is being made.
template <class Value>
class Prefetcher {
 public:
  using Make = std::function<Value(std::int64_t position)>;

  /// `make` is called on the other threads, for one position after the other up to `end`, if there
  /// is one; with several `threads`, for as many positions at once. At most `ahead` values wait,
  /// besides one that each thread is making.
  Prefetcher(Make make, std::size_t ahead, std::optional<std::int64_t> end = {},
             std::size_t threads = 1)
      : make_(std::move(make)), most_(ahead + threads), thread_count_(threads), end_(end) {
    HALFTONE_CHECK(threads > 0, "[prefetcher] expected at least one thread, got 0");
  }
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
    filled_.wait(lock, [this] { return !begun_.empty() && begun_.front().is_made(); });
    Item item = std::move(begun_.front());
    begun_.pop_front();
    ++front_;
    lock.unlock();
    room_.notify_one();
    next_ = item.error ? std::nullopt : std::optional(position + 1);
    if (item.error) std::rethrow_exception(item.error);
    return std::move(*item.value);
  }

 private:
  struct Item {
    bool is_made() const { return value || error; }
    std::optional<Value> value;
    std::exception_ptr error;
  };

  void restart(std::int64_t position) {
    stop();
    next_.reset();  // until the threads are there
    begun_.clear();
    front_ = position;
    stopping_ = failed_ = false;
    for (std::size_t i = 0; i < thread_count_; ++i) threads_.emplace_back([this] { run(); });
  }

  void stop() {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    room_.notify_all();
    for (std::thread& thread : threads_) thread.join();
    threads_.clear();
  }

  void run() {
    while (const std::optional<std::int64_t> position = begin_next()) finish(*position);
  }

  /// The position that the calling thread is to make, when there is room for it; nothing when there
  /// is none left. Positions are begun in order, so that none before an error is missing; what
  /// would come behind the first error is nobody's.
  std::optional<std::int64_t> begin_next() {
    std::unique_lock lock(mutex_);
    room_.wait(lock, [this] { return is_over() || begun_.size() < most_; });
    if (is_over()) return std::nullopt;
    begun_.emplace_back();
    return behind_begun() - 1;
  }

  void finish(std::int64_t position) {
    Item item;
    try {
      item.value.emplace(make_(position));
    } catch (...) {
      item.error = std::current_exception();
    }
    const std::lock_guard lock(mutex_);
    if (item.error) {
      failed_ = true;
      room_.notify_all();  // nothing is left to make
    }
    Item& place = begun_[static_cast<std::size_t>(position - front_)];
    if (item.value) place.value.emplace(std::move(*item.value));
    place.error = std::move(item.error);  // this thread keeps no part of it
    filled_.notify_one();
  }

  // With the mutex held.
  bool is_over() const { return stopping_ || failed_ || (end_ && behind_begun() >= *end_); }
  std::int64_t behind_begun() const { return front_ + static_cast<std::int64_t>(begun_.size()); }

  Make make_;
  std::size_t most_;  // that have been begun and not been taken
  std::size_t thread_count_;
  std::optional<std::int64_t> end_;
  std::optional<std::int64_t> next_;  // what may be taken without beginning anew

  std::mutex mutex_;
  std::condition_variable filled_;
  std::condition_variable room_;
  std::deque<Item> begun_;  // of the positions from front_ on
  std::int64_t front_ = 0;
  bool stopping_ = false;
  bool failed_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace halftone
