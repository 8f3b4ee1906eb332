// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>

namespace halftone {

/// Runs from when it is made, by a clock that is never set.
class Stopwatch {
 public:
  double seconds() const { return std::chrono::duration<double>(Clock::now() - start_).count(); }

 private:
  using Clock = std::chrono::steady_clock;
  Clock::time_point start_ = Clock::now();
};

/// Seconds that one call of `work` takes.
template <class Work>
double seconds_of_call(const Work& work) {
  const Stopwatch watch;
  work();
  return watch.seconds();
}

}  // namespace halftone
