// SPDX-License-Identifier: Apache-2.0
// What a probe sees of the steps that it does not watch: that a backward pass begins. It costs some
// hundred nanoseconds for each step of autograd, and nothing for other operations.
#pragma once

#include <cstdint>
#include <memory>

namespace halftone {

class BackwardListener {
 public:
  virtual ~BackwardListener() = default;
  /// By the thread that runs it, before its first step. Not of one inside another one.
  virtual void backward_begins() = 0;
  /// Once in some thousand operations of a thread, where it was asked for.
  virtual void operations_passed(std::int64_t count) = 0;
};

/// While it lives, `listener` hears of the backward passes of all threads. One at a time in a
/// process. A call may be under way when it ends, hence the shared ownership.
class BackwardWatch {
 public:
  explicit BackwardWatch(std::shared_ptr<BackwardListener> listener);
  ~BackwardWatch();
  BackwardWatch(const BackwardWatch&) = delete;
  BackwardWatch& operator=(const BackwardWatch&) = delete;

  /// Whether operations_passed() is called.
  void count_operations(bool counts);

 private:
  std::uint64_t handle_;
  std::uint64_t counter_ = 0;
};

}  // namespace halftone
