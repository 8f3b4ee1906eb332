// SPDX-License-Identifier: Apache-2.0
// What a change of the configuration would give, measured: steps with it and without it take turns.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace halftone {

/// A step that can be taken, perhaps under settings of the whole process.
struct RunnableStep {
  std::function<void()> take;
  /// Around it: sets the process and sets it back. With them, one more step comes before each that
  /// is timed, for threads and caches to settle.
  std::function<void()> enter;
  std::function<void()> leave;
};

struct StepChange {
  std::string change;  // "--precision bf16-mixed"
  std::string caveat;  // what it costs beside time; may be empty
  double tokens = 0;   // of a step with it
  /// Makes the step. May throw UserError or c10::Error: the change is not possible then.
  std::function<RunnableStep()> make;
};

struct MeasuredChange {
  std::string change;
  std::string caveat;
  double tokens_per_s_now = 0;  // medians
  double tokens_per_s_then = 0;
  double gain = 1;   // median over the pairs of tokens/s then by tokens/s now
  double noise = 0;  // standard error of that median, from the spread of the pairs
  std::int64_t pairs = 0;
  std::string failure;  // why it was not measured; else empty

  /// Whether at least `least` of it is left after twice the noise.
  bool is_real(double least) const { return failure.empty() && gain - 2 * noise > 1 + least; }
};

struct ChangeOptions {
  std::int64_t pairs = 7;      // at most
  std::int64_t least = 3;      // of pairs, however long they take
  double seconds_each = 10;    // for the pairs of one change
  double seconds_in_all = 60;  // what comes later is not tried
  std::function<void(const std::string& change, double share)> progress;
};

/// Measures each change beside `now`, which does `tokens` per step, in turns (now, then, now,
/// then...), after a step of each to warm up. Those tried come first, the largest gain first.
std::vector<MeasuredChange> measure_changes(const RunnableStep& now, double tokens,
                                            const std::vector<StepChange>& changes,
                                            const ChangeOptions& options = {});

}  // namespace halftone
