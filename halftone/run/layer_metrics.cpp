// SPDX-License-Identifier: Apache-2.0
#include "halftone/run/layer_metrics.h"

#include <cstddef>

namespace halftone {
namespace {

// In the order of LayerStatistic.
constexpr std::array<std::string_view, kLayerStatistics.size()> kStatisticNames{
    "grad_norm",       "grad_rms",     "grad_max",     "zero_share",
    "underflow_share", "update_ratio", "lost_updates", "unchanged_weights"};

}  // namespace

std::string_view name_of(LayerStatistic statistic) {
  return kStatisticNames.at(static_cast<std::size_t>(statistic));
}

std::string layer_key(LayerStatistic statistic, std::string_view parameter) {
  return std::string(name_of(statistic)).append("/").append(parameter);
}

std::optional<LayerKey> parse_layer_key(std::string_view key) {
  const std::size_t slash = key.find('/');
  if (slash == std::string_view::npos || slash + 1 == key.size()) return std::nullopt;
  for (const LayerStatistic statistic : kLayerStatistics)
    if (key.substr(0, slash) == name_of(statistic))
      return LayerKey{statistic, key.substr(slash + 1)};
  return std::nullopt;
}

}  // namespace halftone
