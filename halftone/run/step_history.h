// SPDX-License-Identifier: Apache-2.0
// The numbers of a run's steps in bounded memory, however long the run: neighbouring steps share a
// bucket that keeps their extremes.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace halftone {

/// The numbers of a step that a report draws.
enum class StepField : std::size_t {
  kLoss,
  kLr,
  kGradNorm,
  kScale,
  kTokensPerS,
  kStepMs,
  kRssMib,
  kCudaMib,
  kWeightsMib,
  kGradientsMib,
  kStatesMib,
  kTensorsMib,
};
inline constexpr std::size_t kStepFields = 12;

struct StepNumbers {
  StepNumbers() { values.fill(kNone); }

  static const double kNone;  ///< nan: the step has no such number

  double& operator[](StepField field) { return values[static_cast<std::size_t>(field)]; }
  double operator[](StepField field) const { return values[static_cast<std::size_t>(field)]; }

  std::int64_t step = 0;
  bool skipped = false;
  std::array<double, kStepFields> values{};
};

struct StepValue {
  std::int64_t step = 0;
  double value = 0;
};

/// One field over the steps of a bucket; all but `count` mean nothing where that is 0.
struct FieldSummary {
  std::int64_t count = 0;  ///< of the steps that have the number
  double sum = 0;
  StepValue first, last, least, most;
};

struct StepBucket {
  std::int64_t first_step = 0, last_step = 0;
  std::int64_t steps = 0;
  std::int64_t skipped = 0;
  std::array<FieldSummary, kStepFields> fields;

  const FieldSummary& operator[](StepField field) const {
    return fields[static_cast<std::size_t>(field)];
  }
};

/// One number over neighbouring steps.
struct ValueBucket {
  std::int64_t first_step = 0, last_step = 0;
  FieldSummary summary;
};

/// One number that some steps have, in bounded memory.
class ValueHistory {
 public:
  /// Up to so many values, each has a bucket of its own.
  static constexpr std::size_t kMaxBuckets = 256;

  /// nan: a value that can't be drawn, and is a gap. REQUIRES steps in ascending order.
  void add(const StepValue& value);

  /// In the order of their steps, all but the last of width() values.
  const std::vector<ValueBucket>& buckets() const { return buckets_; }
  std::int64_t width() const { return width_; }
  bool empty() const { return buckets_.empty(); }
  /// REQUIRES a value.
  std::int64_t last_step() const { return buckets_.back().last_step; }

 private:
  std::vector<ValueBucket> buckets_;
  std::int64_t width_ = 1;
  std::int64_t values_in_last_ = 0;  // bucket
};

class StepHistory {
 public:
  /// Up to so many steps, each has a bucket of its own.
  static constexpr std::size_t kMaxBuckets = 512;

  /// REQUIRES steps in ascending order.
  void add(const StepNumbers& numbers);

  /// In the order of their steps, all but the last of width() steps.
  const std::vector<StepBucket>& buckets() const { return buckets_; }
  std::int64_t width() const { return width_; }
  bool empty() const { return buckets_.empty(); }
  /// Whether any step has the number.
  bool has(StepField field) const;
  /// The buckets of one number.
  std::vector<ValueBucket> values(StepField field) const;

 private:
  void halve();

  std::vector<StepBucket> buckets_;
  std::int64_t width_ = 1;
};

}  // namespace halftone
