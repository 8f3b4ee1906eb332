// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace CLI {
class App;
}

namespace halftone::cli {

/// halftone profile: where a training step's time and memory go, and what would make it faster.
void add_profile_command(CLI::App& app);

}  // namespace halftone::cli
