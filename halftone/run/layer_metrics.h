// SPDX-License-Identifier: Apache-2.0
// The statistics of single layers among the logged values of a step:
// "grad_norm/layers.0.wq.weight".
#pragma once

#include <array>
#include <optional>
#include <string>
#include <string_view>

namespace halftone {

/// LayerStatistics (train/layer_statistics.h) says how each is measured.
enum class LayerStatistic {
  kGradNorm,
  kGradRms,
  kGradMax,
  kZeroShare,
  kUnderflowShare,
  kUpdateRatio,
  kLostUpdates,
  kUnchangedWeights,
};

inline constexpr std::array<LayerStatistic, 8> kLayerStatistics{
    LayerStatistic::kGradNorm,    LayerStatistic::kGradRms,         LayerStatistic::kGradMax,
    LayerStatistic::kZeroShare,   LayerStatistic::kUnderflowShare,  LayerStatistic::kUpdateRatio,
    LayerStatistic::kLostUpdates, LayerStatistic::kUnchangedWeights};

/// "grad_norm", "grad_rms", "grad_max", "zero_share", "underflow_share", "update_ratio",
/// "lost_updates", "unchanged_weights".
std::string_view name_of(LayerStatistic statistic);

/// The key of a statistic of the parameter called `parameter`: "grad_norm/layers.0.wq.weight".
std::string layer_key(LayerStatistic statistic, std::string_view parameter);

struct LayerKey {
  LayerStatistic statistic;
  std::string_view parameter;  ///< a part of the key that it was read from
};

/// What layer_key() made `key` of; nothing for any other.
std::optional<LayerKey> parse_layer_key(std::string_view key);

}  // namespace halftone
