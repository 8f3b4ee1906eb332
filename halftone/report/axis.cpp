// SPDX-License-Identifier: Apache-2.0
#include "halftone/report/axis.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <string_view>
#include <utility>

namespace halftone {
namespace {

// The smallest of 1, 2, 5 times a power of ten that is no smaller than `least`.
double round_distance(double least) {
  const double power = std::pow(10.0, std::floor(std::log10(least)));
  for (const double factor : {1.0, 2.0, 5.0})
    if (factor * power >= least * (1 - 1e-9)) return factor * power;
  return 10 * power;
}

std::string without_zeros(std::string text) {
  if (text.find('.') == std::string::npos) return text;
  text.erase(text.find_last_not_of('0') + 1);
  if (text.ends_with('.')) text.pop_back();
  return text;
}

std::string scientific(double value, int digits) {
  const std::string text = fmt::format("{:.{}e}", value, digits);
  const std::size_t e = text.find('e');
  return without_zeros(text.substr(0, e)) + fmt::format("e{}", std::stoi(text.substr(e + 1)));
}

struct Unit {
  double size = 1;
  std::string_view letter;
};

// What numbers of size `largest` are counted in; a size of 0 where they are too large or too small.
Unit unit_for(double largest) {
  constexpr std::array<Unit, 4> kUnits{{{1e12, "T"}, {1e9, "B"}, {1e6, "M"}, {1e3, "k"}}};
  if (largest >= 1e15 || largest < 1e-3) return {0, ""};
  if (largest < 1e4) return {1, ""};
  return *std::find_if(kUnits.begin(), kUnits.end(),
                       [&](const Unit& unit) { return largest >= unit.size; });
}

// `value`, a multiple of `distance`, on an axis whose numbers go up to `largest`.
std::string tick_label(double value, double distance, double largest) {
  const auto decimals_of = [](double number) {
    return std::clamp(-static_cast<int>(std::floor(std::log10(number) + 1e-9)), 0, 12);
  };
  if (value == 0) return "0";
  const Unit unit = unit_for(largest);
  if (unit.size == 0)
    return scientific(
        value, decimals_of(distance / std::pow(10.0, std::floor(std::log10(std::abs(value))))));
  return fmt::format("{:.{}f}{}", value / unit.size, decimals_of(distance / unit.size),
                     unit.letter);
}

std::vector<Tick> ticks_between(double low, double high, double distance) {
  std::vector<Tick> ticks;
  const double largest = std::max(std::abs(low), std::abs(high));
  const double slack = 1e-6;
  for (double i = std::ceil(low / distance - slack); i <= std::floor(high / distance + slack); ++i)
    ticks.push_back({i * distance, tick_label(i * distance, distance, largest)});
  return ticks;
}

std::string superscript(int number) {
  constexpr std::array<std::string_view, 10> kDigits = {"⁰", "¹", "²", "³", "⁴",
                                                        "⁵", "⁶", "⁷", "⁸", "⁹"};
  std::string text = number < 0 ? "⁻" : "";
  for (const char digit : std::to_string(std::abs(number)))
    text += kDigits[static_cast<std::size_t>(digit - '0')];
  return text;
}

}  // namespace

Axis Axis::linear(double low, double high, int ticks) {
  // What differs in its last bits only is one value.
  const double room = std::max(std::abs(low), std::abs(high)) * 1e-9;
  if (high - low <= room) {
    const double around = low == 0 ? 1 : std::abs(low) / 10;
    return linear(low - around, high + around, ticks);
  }
  const double distance = round_distance((high - low) / ticks);
  Axis axis(std::floor(low / distance + 1e-6) * distance,
            std::ceil(high / distance - 1e-6) * distance, false);
  axis.ticks_ = ticks_between(axis.low_, axis.high_, distance);
  return axis;
}

Axis Axis::steps(double low, double high, int ticks) {
  const double around = high > low ? 0 : 0.5;
  Axis axis(low - around, high + around, false);
  axis.ticks_ = ticks_between(axis.low_, axis.high_,
                              std::max(1.0, round_distance((axis.high_ - axis.low_) / ticks)));
  return axis;
}

Axis Axis::log10(double low, double high) {
  const int first = static_cast<int>(std::floor(std::log10(low) + 1e-9));
  const int last = std::max(first + 1, static_cast<int>(std::ceil(std::log10(high) - 1e-9)));
  Axis axis(std::pow(10.0, first), std::pow(10.0, last), true);
  const int every = (last - first + 5) / 6;
  for (int power = first; power <= last; power += every) {
    const double value = std::pow(10.0, power);
    axis.ticks_.push_back(
        {value, power >= -3 && power < 4 ? fmt::format("{:g}", value) : "10" + superscript(power)});
  }
  return axis;
}

Axis Axis::log2(double low, double high, int ticks) {
  int first = static_cast<int>(std::floor(std::log2(low) + 1e-9));
  int last = static_cast<int>(std::ceil(std::log2(high) - 1e-9));
  if (first == last) {
    --first;
    ++last;
  }
  Axis axis(std::exp2(first), std::exp2(last), true);
  const int every = std::max(1, (last - first + ticks - 1) / ticks);
  for (int power = first; power <= last; power += every)
    axis.ticks_.push_back({std::exp2(power), power_of_two(std::exp2(power))});
  return axis;
}

double Axis::share(double value) const {
  if (!is_log_) return (value - low_) / (high_ - low_);
  return value > 0 ? std::log(value / low_) / std::log(high_ / low_) : std::nan("");
}

std::string power_of_two(double value) {
  int exponent = 0;
  return std::frexp(value, &exponent) == 0.5 ? "2" + superscript(exponent - 1)
                                             : short_number(value);
}

std::string short_number(double value) {
  if (value == 0) return "0";
  // With what rounding may add: 999.6k is 1M.
  const Unit unit = unit_for(std::abs(value) * 1.0006);
  if (unit.size == 0) return scientific(value, 2);
  return fmt::format("{:.{}g}{}", value / unit.size, unit.size > 1 ? 3 : 4, unit.letter);
}

}  // namespace halftone
