// SPDX-License-Identifier: Apache-2.0
#include "halftone/run/step_history.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace halftone {
namespace {

FieldSummary merged(const FieldSummary& a, const FieldSummary& b) {
  if (a.count == 0) return b;
  if (b.count == 0) return a;
  return {.count = a.count + b.count,
          .sum = a.sum + b.sum,
          .first = a.first,
          .last = b.last,
          .least = b.least.value < a.least.value ? b.least : a.least,
          .most = b.most.value > a.most.value ? b.most : a.most};
}

StepBucket merged(const StepBucket& a, const StepBucket& b) {
  StepBucket both{.first_step = a.first_step,
                  .last_step = b.last_step,
                  .steps = a.steps + b.steps,
                  .skipped = a.skipped + b.skipped,
                  .fields = {}};
  for (std::size_t i = 0; i < kStepFields; ++i) both.fields[i] = merged(a.fields[i], b.fields[i]);
  return both;
}

StepBucket bucket_of(const StepNumbers& numbers) {
  StepBucket bucket{.first_step = numbers.step,
                    .last_step = numbers.step,
                    .steps = 1,
                    .skipped = numbers.skipped ? 1 : 0,
                    .fields = {}};
  for (std::size_t i = 0; i < kStepFields; ++i) {
    if (std::isnan(numbers.values[i])) continue;
    const StepValue value{numbers.step, numbers.values[i]};
    bucket.fields[i] = {1, value.value, value, value, value, value};
  }
  return bucket;
}

}  // namespace

const double StepNumbers::kNone = std::numeric_limits<double>::quiet_NaN();

void StepHistory::add(const StepNumbers& numbers) {
  const StepBucket bucket = bucket_of(numbers);
  if (!buckets_.empty() && buckets_.back().steps < width_) {
    buckets_.back() = merged(buckets_.back(), bucket);
    return;
  }
  if (buckets_.size() == kMaxBuckets) halve();
  buckets_.push_back(bucket);
}

void StepHistory::halve() {
  for (std::size_t i = 0; i < buckets_.size() / 2; ++i)
    buckets_[i] = merged(buckets_[2 * i], buckets_[2 * i + 1]);
  buckets_.resize(buckets_.size() / 2);
  width_ *= 2;
}

bool StepHistory::has(StepField field) const {
  return std::any_of(buckets_.begin(), buckets_.end(),
                     [&](const StepBucket& bucket) { return bucket[field].count > 0; });
}

}  // namespace halftone
