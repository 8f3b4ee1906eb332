// SPDX-License-Identifier: Apache-2.0
// Which steps of a program are watched.
#pragma once

#include <cstdint>
#include <optional>

namespace halftone {

/// Chooses for one kind of watching.
class StepSampler {
 public:
  /// Never.
  StepSampler() = default;
  /// Every n-th step, the first one included; 0: as many as cost at most kShare of the time, but
  /// the first one always.
  explicit StepSampler(std::int64_t every) : every_(every) {}

  /// Whether step `step`, which counts from 1, is watched, `seconds` after the start.
  bool wants(std::int64_t step, double seconds) const;
  /// What watching a step has cost.
  void spent(double seconds);
  void stop() { every_.reset(); }

 private:
  static constexpr double kShare = 0.012;
  std::optional<std::int64_t> every_;
  double spent_ = 0.0;
  double last_ = 0.0;
  bool has_watched_ = false;
};

}  // namespace halftone
