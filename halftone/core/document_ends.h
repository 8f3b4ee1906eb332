// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

namespace halftone {

/// For each row of a batch, the positions behind its documents, the last one the row's length.
using DocumentEnds = std::vector<std::vector<std::int64_t>>;

}  // namespace halftone
