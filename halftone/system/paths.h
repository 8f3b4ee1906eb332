// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>

namespace halftone {

/// The folder of files that can be made again: ${XDG_CACHE_HOME:-~/.cache}/halftone, or one in the
/// system's temporary folder if there is no home. It need not exist.
std::filesystem::path cache_folder();

}  // namespace halftone
