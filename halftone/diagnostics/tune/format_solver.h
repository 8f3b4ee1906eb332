// SPDX-License-Identifier: Apache-2.0
// The choice of a format for each group of layers: the least time within an error budget.
#pragma once

#include <cstddef>
#include <vector>

namespace halftone {

/// One format of a group.
struct FormatOption {
  double seconds = 0;  // of the group in it
  double share = 0;    // of the whole budget that it uses up, from 0 on
};

/// The index of an option for each group: of all choices whose shares sum to at most 1, one of the
/// least total time. Exact but for the shares, which are rounded up to 1/20000: the budget is never
/// exceeded. A multiple-choice knapsack by dynamic programming over the budget (Dudzinski and
/// Walukiewicz 1987). REQUIRES that the first option of each group has the share 0.
std::vector<std::size_t> fastest_within_budget(
    const std::vector<std::vector<FormatOption>>& groups);

}  // namespace halftone
