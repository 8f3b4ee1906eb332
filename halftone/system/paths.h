// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>

namespace halftone {

/// Where this project keeps what it can make again: ${XDG_CACHE_HOME:-~/.cache}/halftone, or a
/// folder of the system's temporary one when there is no home. It need not exist.
std::filesystem::path cache_folder();

}  // namespace halftone
