// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

namespace CLI {
class App;
}

namespace halftone::cli {

/// Takes what a launch is to start off the program's arguments, so that what is left are the flags
/// of `launch` alone: {"launch", "--processes", "2", "train", ...} gives {"train", ...}. A "--"
/// before a program comes along. Other commands' arguments are left as they are.
std::vector<std::string> take_launched_words(std::vector<std::string>& args);

/// Adds `launch` of these words.
void add_launch_command(CLI::App& app, std::vector<std::string> words);

}  // namespace halftone::cli
