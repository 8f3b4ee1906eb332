// SPDX-License-Identifier: Apache-2.0
// Real data that every Debian and Ubuntu machine can have: packages of the distribution, unpacked
// into a folder of the user's without root.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace halftone {

struct FetchedData {
  std::filesystem::path folder;
  std::vector<std::string> files;     ///< paths below the folder, sorted
  std::uint64_t bytes = 0;            ///< of all files
  std::vector<std::string> packages;  ///< "fortunes-zh 2.98"
  bool was_there = false;             ///< an earlier call had fetched it
};

/// "asterisk-sounds", "dataset-fashion-mnist", "emoji", "fortunes", "fortunes-zh".
std::vector<std::string> dataset_names();

/// Throws the UserError for a `name` that is none of `names`; the nearest one is proposed.
[[noreturn]] void refuse_dataset(const std::string& name, const std::vector<std::string>& names);

/// Puts the files of the data set `name`, and its licence as `copyright`, into `folder` (empty:
/// `data/<name>` in cache_folder()): from the installed packages, else from `apt-get download`,
/// and all or nothing. What is done is told with log_note. Throws UserError for an unknown name, a
/// folder that holds something else or cannot be written, and a machine without Debian's tools;
/// SystemError when the download fails or the disk is full.
FetchedData fetch_dataset(const std::string& name, std::filesystem::path folder = {});

}  // namespace halftone
