// SPDX-License-Identifier: Apache-2.0
#include "halftone/diagnostics/profile/step_changes.h"

#include <algorithm>
#include <cmath>

#include "halftone/core/error.h"
#include "halftone/core/median.h"
#include "halftone/core/stopwatch.h"

namespace halftone {
namespace {

class EnteredStep {
 public:
  explicit EnteredStep(const RunnableStep& step) : step_(step) {
    if (step_.enter) step_.enter();
  }
  ~EnteredStep() {
    if (step_.leave) step_.leave();
  }
  EnteredStep(const EnteredStep&) = delete;
  EnteredStep& operator=(const EnteredStep&) = delete;

 private:
  const RunnableStep& step_;
};

/// Of the median of a normal sample: 1.2533 standard deviations over the root of its size, the
/// deviation being 1.4826 median absolute deviations.
double error_of_median(const std::vector<double>& values) {
  const double middle = median(values);
  std::vector<double> distances;
  for (const double value : values) distances.push_back(std::abs(value - middle));
  return 1.2533 * 1.4826 * median(distances) / std::sqrt(static_cast<double>(values.size()));
}

double timed_step(const RunnableStep& step, bool settles) {
  const EnteredStep entered(step);
  if (settles) step.take();
  return seconds_of_call(step.take);
}

class ChangeMeasurement {
 public:
  ChangeMeasurement(const RunnableStep& now, double tokens, const ChangeOptions& options)
      : now_(now), tokens_(tokens), options_(options) {}

  MeasuredChange measure(const StepChange& change) const {
    MeasuredChange measured{.change = change.change, .caveat = change.caveat};
    try {
      take_turns(change, change.make(), measured);
    } catch (const UserError& error) {
      measured.failure = error.what();
    } catch (const SystemError& error) {
      measured.failure = error.what();
    } catch (const c10::Error& error) {
      measured.failure = error.what_without_backtrace();
    }
    return measured;
  }

 private:
  void take_turns(const StepChange& change, const RunnableStep& then,
                  MeasuredChange& measured) const {
    const bool settles = static_cast<bool>(then.enter);
    timed_step(then, settles);
    timed_step(now_, settles);
    const Stopwatch watch;
    std::vector<double> before, after, gains;
    while (std::ssize(gains) < options_.pairs &&
           (std::ssize(gains) < options_.least || watch.seconds() < options_.seconds_each)) {
      before.push_back(tokens_ / timed_step(now_, settles));
      after.push_back(change.tokens / timed_step(then, settles));
      gains.push_back(after.back() / before.back());
    }
    measured.pairs = std::ssize(gains);
    measured.tokens_per_s_now = median(before);
    measured.tokens_per_s_then = median(after);
    measured.gain = median(gains);
    measured.noise = error_of_median(gains);
  }

  const RunnableStep& now_;
  double tokens_;
  const ChangeOptions& options_;
};

}  // namespace

std::vector<MeasuredChange> measure_changes(const RunnableStep& now, double tokens,
                                            const std::vector<StepChange>& changes,
                                            const ChangeOptions& options) {
  HALFTONE_CHECK(options.least >= 2 && options.pairs >= options.least,
                 "[profile] expected 2 pairs or more, got ", options.least);
  const ChangeMeasurement measurement(now, tokens, options);
  const Stopwatch watch;
  std::vector<MeasuredChange> measured;
  for (std::size_t i = 0; i < changes.size(); ++i) {
    if (options.progress)
      options.progress(changes[i].change,
                       static_cast<double>(i) / static_cast<double>(changes.size()));
    if (watch.seconds() < options.seconds_in_all) {
      measured.push_back(measurement.measure(changes[i]));
      continue;
    }
    measured.push_back({.change = changes[i].change,
                        .caveat = changes[i].caveat,
                        .failure = "no time was left to try it"});
  }
  std::stable_sort(measured.begin(), measured.end(),
                   [](const MeasuredChange& a, const MeasuredChange& b) {
                     if (a.failure.empty() != b.failure.empty()) return a.failure.empty();
                     return a.gain > b.gain;
                   });
  return measured;
}

}  // namespace halftone
