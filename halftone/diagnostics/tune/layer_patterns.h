// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <string>
#include <vector>

#include "halftone/kernels/gemm/compute_type.h"

namespace halftone {

/// Texts of layer_precision that give exactly these formats (train/layer_precision.h): `layers` are
/// all linear layers of a network by path, and those in `recipe` need no text. What differs in
/// numbers only is named as one where all of it has one format:
/// "^layers\.\d+\.attention\.wo$=int8". `by_parents`: as is a module all of whose layers have one:
/// "^layers$=int8", and ".*=int8" where that is the network.
std::vector<std::string> layer_precision_texts(const std::map<std::string, ComputeType>& layers,
                                               ComputeType recipe, bool by_parents);

}  // namespace halftone
