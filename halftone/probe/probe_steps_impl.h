// SPDX-License-Identifier: Apache-2.0
// Where the steps of a program begin and end, and which of them are watched.
#pragma once

#include <chrono>
#include <cstdint>
#include <mutex>

#include "halftone/probe/step_sampler_impl.h"

namespace halftone {

/// A step ends with its backward pass and with what follows it until autograd records again: the
/// update. A program without backward passes has steps of kOperations operations. Thread-safe.
class ProbeSteps {
 public:
  static constexpr std::int64_t kOperations = 20000;

  struct Step {
    std::int64_t number = 1;
    bool searches = false;  // for the first bad operation
    bool samples = false;   // what the other modes need
    bool is_watched() const { return searches || samples; }
  };
  /// What an operation is that no other one is around, outside of backward passes.
  struct Operation {
    bool has_gradients = false;  // where it begins, gradients are not switched off
    bool records = false;        // and autograd records it
  };
  enum class Turn { kSame, kEnds, kBegins, kPasses };

  ProbeSteps(StepSampler search, StepSampler sample);

  Step step() const;
  /// Whether some backward pass has begun since the start.
  bool has_backward() const;
  double seconds() const;

  /// Of a step that is not watched; returns whether the next one is to be.
  bool backward_begins();
  /// Where operations are counted only: whether the next step is to be watched, as above.
  bool operations_passed(std::int64_t count);

  /// Of a step that is watched: kEnds before its first operation where the step has ended (then
  /// finish() it and ask again), kBegins at the first one of a step, kPasses between watched ones.
  Turn operation_begins(const Operation& operation);
  /// The costs in seconds. Returns whether the next step is watched.
  bool finish(double searched, double sampled);
  void stop_search();
  void note_backward();  // an operation of a backward pass

  /// So far; where there are backward passes, those that have had one.
  std::int64_t steps() const;
  std::int64_t searched_steps() const;
  std::int64_t sampled_steps() const;

 private:
  using Clock = std::chrono::steady_clock;

  void begin_step(std::int64_t number);
  bool wants(std::int64_t number) const;
  bool lasts_too_long() const;

  mutable std::mutex mutex_;
  const Clock::time_point start_ = Clock::now();
  StepSampler search_, sample_;
  Step step_;
  bool is_observed_ = true;
  bool is_waiting_ = false;  // observed, for the step that is to come
  bool has_begun_ = false;   // an operation of the step was seen
  bool backward_seen_ = false;
  bool has_backward_ = false;
  std::int64_t operations_ = 0;
  std::int64_t searched_steps_ = 0, sampled_steps_ = 0;
  Clock::time_point step_began_ = start_, backward_ended_ = start_;
};

}  // namespace halftone
