// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace CLI {
class App;
}

namespace halftone {

/// Adds `data fetch NAME [--out DIR]`.
void add_data_command(CLI::App& app);

}  // namespace halftone
