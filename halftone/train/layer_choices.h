// SPDX-License-Identifier: Apache-2.0
// Which layers of a run compute in another format than its precision says, as its checkpoints keep
// it: who evaluates the model needs it beside the name of the precision.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "halftone/core/state_dict.h"

namespace halftone {

struct LayerChoices {
  std::vector<std::string> keep_fp32;        // patterns of keep_fp32()
  std::vector<std::string> layer_precision;  // "REGEX=FORMAT"

  bool operator==(const LayerChoices&) const = default;
  /// "keep_fp32 head, layer_precision none"
  std::string to_string() const;
};

/// Into the values of a checkpoint's trainer state.
void save_layer_choices(const LayerChoices& choices, StateDict& trainer);

/// Nothing in checkpoints that are older than this.
std::optional<LayerChoices> saved_layer_choices(const StateDict& trainer);

}  // namespace halftone
