// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

namespace halftone {

struct Tick {
  double value = 0;
  std::string label;
};

/// One direction of a picture: where values lie, and ticks at round numbers.
class Axis {
 public:
  /// From the tick at or below `low` to the one at or above `high`; about `ticks` of them. Bounds
  /// that are equal get room around them. REQUIRES finite bounds, low <= high, far from overflow.
  static Axis linear(double low, double high, int ticks);
  /// Exactly from `low` to `high`, with ticks at integers inside.
  static Axis steps(double low, double high, int ticks);
  /// From a power of ten or of two to another. REQUIRES 0 < low <= high.
  static Axis log10(double low, double high);
  static Axis log2(double low, double high, int ticks);

  /// 0 at the lower end, 1 at the upper; nan for what a logarithm does not have.
  double share(double value) const;
  const std::vector<Tick>& ticks() const { return ticks_; }
  double low() const { return low_; }
  double high() const { return high_; }

 private:
  Axis(double low, double high, bool is_log) : low_(low), high_(high), is_log_(is_log) {}

  double low_, high_;
  bool is_log_;
  std::vector<Tick> ticks_;
};

/// "2¹⁶" for 65536 and other powers of two, short_number() for the rest.
std::string power_of_two(double value);

/// `value` with at most four digits that count, as a person writes it: "0.0125", "4.257", "13.8k",
/// "3e-5".
std::string short_number(double value);

}  // namespace halftone
