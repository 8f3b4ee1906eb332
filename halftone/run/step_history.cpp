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

FieldSummary summary_of(const StepValue& value) {
  if (std::isnan(value.value)) return {};
  return {1, value.value, value, value, value, value};
}

ValueBucket merged(const ValueBucket& a, const ValueBucket& b) {
  return {a.first_step, b.last_step, merged(a.summary, b.summary)};
}

template <class Bucket>
void join_pairs(std::vector<Bucket>& buckets) {
  for (std::size_t i = 0; i < buckets.size() / 2; ++i)
    buckets[i] = merged(buckets[2 * i], buckets[2 * i + 1]);
  buckets.resize(buckets.size() / 2);
}

StepBucket bucket_of(const StepNumbers& numbers) {
  StepBucket bucket{.first_step = numbers.step,
                    .last_step = numbers.step,
                    .steps = 1,
                    .skipped = numbers.skipped ? 1 : 0,
                    .fields = {}};
  for (std::size_t i = 0; i < kStepFields; ++i)
    bucket.fields[i] = summary_of({numbers.step, numbers.values[i]});
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
  join_pairs(buckets_);
  width_ *= 2;
}

std::vector<ValueBucket> StepHistory::values(StepField field) const {
  std::vector<ValueBucket> values;
  values.reserve(buckets_.size());
  for (const StepBucket& bucket : buckets_)
    values.push_back({bucket.first_step, bucket.last_step, bucket[field]});
  return values;
}

void ValueHistory::add(const StepValue& value) {
  const ValueBucket bucket{value.step, value.step, summary_of(value)};
  if (!buckets_.empty() && values_in_last_ < width_) {
    buckets_.back() = merged(buckets_.back(), bucket);
    ++values_in_last_;
    return;
  }
  if (buckets_.size() == kMaxBuckets) {
    join_pairs(buckets_);
    width_ *= 2;
  }
  buckets_.push_back(bucket);
  values_in_last_ = 1;
}

bool StepHistory::has(StepField field) const {
  return std::any_of(buckets_.begin(), buckets_.end(),
                     [&](const StepBucket& bucket) { return bucket[field].count > 0; });
}

}  // namespace halftone
