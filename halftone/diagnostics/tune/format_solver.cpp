// SPDX-License-Identifier: Apache-2.0
#include "halftone/diagnostics/tune/format_solver.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "halftone/core/error.h"

namespace halftone {
namespace {

constexpr std::size_t kUnits = 20'000;  // of the budget

/// Units that an option uses up; more than there are where it does not fit.
std::size_t units_of(const FormatOption& option) {
  if (!(option.share <= 1.0)) return kUnits + 1;
  return static_cast<std::size_t>(std::ceil(std::max(0.0, option.share) * kUnits));
}

/// The least time of the groups so far for each budget, and the option of the last group in it.
struct Row {
  std::vector<double> seconds;
  std::vector<std::uint8_t> option;
};

Row with_group(const std::vector<double>& before, const std::vector<FormatOption>& options) {
  Row row{.seconds = std::vector<double>(kUnits + 1, std::numeric_limits<double>::infinity()),
          .option = std::vector<std::uint8_t>(kUnits + 1, 0)};
  for (std::size_t i = 0; i < options.size(); ++i) {
    const std::size_t used = units_of(options[i]);
    for (std::size_t budget = used; budget <= kUnits; ++budget) {
      const double seconds = before[budget - used] + options[i].seconds;
      if (seconds >= row.seconds[budget]) continue;
      row.seconds[budget] = seconds;
      row.option[budget] = static_cast<std::uint8_t>(i);
    }
  }
  return row;
}

}  // namespace

std::vector<std::size_t> fastest_within_budget(
    const std::vector<std::vector<FormatOption>>& groups) {
  std::vector<Row> rows;
  std::vector<double> seconds(kUnits + 1, 0.0);
  for (const std::vector<FormatOption>& options : groups) {
    HALFTONE_CHECK(!options.empty() && options.size() < 256 && options.front().share == 0.0,
                   "[tune] expected a first option that uses up nothing of the budget");
    rows.push_back(with_group(seconds, options));
    seconds = rows.back().seconds;
  }
  std::vector<std::size_t> choice(groups.size());
  std::size_t budget = kUnits;
  for (std::size_t group = groups.size(); group-- > 0;) {
    choice[group] = rows[group].option[budget];
    budget -= units_of(groups[group][choice[group]]);
  }
  return choice;
}

}  // namespace halftone
