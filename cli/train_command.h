// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

namespace CLI {
class App;
}

namespace halftone::cli {

/// Adds `train`.
void add_train_command(CLI::App& app);

/// The words of a `train` command that goes on with the run which the process that `words` started
/// has left: from its last checkpoint, or from the start if it has none. Throws UserError where the
/// words can't be those of a run that goes on.
std::vector<std::string> words_to_go_on(std::vector<std::string> words);

}  // namespace halftone::cli
