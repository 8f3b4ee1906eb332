// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "halftone/core/state_dict.h"

namespace halftone {

/// Which steps are sampled: every n-th, or so many that samples take no more than a share of the
/// time.
class SamplePace {
 public:
  /// Of the time of all steps; what is promised is 2 %.
  static constexpr double kShare = 0.015;

  /// `every_n_steps` 0: chosen by itself, a power of two.
  explicit SamplePace(std::int64_t every_n_steps);

  bool is_due(std::int64_t step) const;
  std::int64_t every() const { return every_; }

  /// What a step took without a sample, and a sample beside its step. The first sample of a process
  /// does not count: memory and caches are new to it.
  void note_step(double seconds);
  void note_sample(double seconds);

  /// "every", "sample_s" and "step_s"; empty where the interval is given.
  StateDict state_dict() const;
  void load_state_dict(const StateDict& state);

 private:
  void choose();

  bool is_chosen_;
  std::int64_t every_;
  double sample_s_ = 0.0, step_s_ = 0.0;  // means that forget; 0: none yet
  bool is_warm_ = false;
};

}  // namespace halftone
