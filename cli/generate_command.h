// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace CLI {
class App;
}

namespace halftone::cli {

/// Adds `generate`.
void add_generate_command(CLI::App& app);

}  // namespace halftone::cli
