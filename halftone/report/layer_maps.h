// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "halftone/report/heat_map.h"
#include "halftone/run/layer_history.h"

namespace halftone {

/// At most so many rows, unless the modules at the top are more.
inline constexpr std::size_t kMostHeatRows = 48;

/// The module that each of `parameters` is drawn with, in their order: the path without the
/// parameter's own name, cut shorter until no more than kMostHeatRows are left.
std::vector<std::string> modules_of(const std::vector<std::string>& parameters);

/// Whether `a` stands before `b`: numbers in paths by their value, "layers.2" before "layers.10".
bool stands_before(const std::string& a, const std::string& b);

/// The pictures of what LayerStatistics measured: gradient norm, largest gradient and update ratio,
/// and the shares that were lost where any were. Of several parameters of a row a column shows the
/// largest value, of norms the norm of all.
std::vector<HeatMap> layer_maps(const LayerHistory& layers);

}  // namespace halftone
