// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

#include "halftone/core/state_dict.h"

namespace halftone {

/// "NAME[BEGIN:END]", what `size` elements of NAME from BEGIN on are called, which a process has of
/// a tensor that is divided among several.
std::string part_name(const std::string& name, std::int64_t begin, std::int64_t size);

/// The states of all processes as one: the parts of a tensor, flat, become the tensor, flat and
/// lazy. Throws UserError that names the tensor where parts are missing or overlap.
StateDict whole_states(const StateDict& parts);

}  // namespace halftone
