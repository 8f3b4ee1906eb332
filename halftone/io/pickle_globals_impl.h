// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string_view>

namespace halftone {

/// Whether a file of torch.save may name this: containers, storages, dtypes, and the functions that
/// rebuild tensors. None of them is imported or called; a name that is not known is one whose
/// object can't be told.
bool is_allowed_global(std::string_view module, std::string_view name);

}  // namespace halftone
