// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>

namespace halftone {

/// While it lives, counts the bytes that this thread's tensors on the device meta would take if
/// they had data. Each of their storages gets an address of its own, for code that compares
/// addresses; nothing lies there. Tensors that outlive it are counted no more. One at a time in a
/// thread.
class TensorTally {
 public:
  TensorTally();
  ~TensorTally();
  TensorTally(const TensorTally&) = delete;
  TensorTally& operator=(const TensorTally&) = delete;

  std::int64_t live() const;
  /// The most at once since reset_peak().
  std::int64_t peak() const;
  void reset_peak();

  /// Whether this thread has one.
  static bool is_counting();

  struct Count;

 private:
  std::shared_ptr<Count> count_;
};

}  // namespace halftone
