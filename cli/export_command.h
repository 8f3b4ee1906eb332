// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace CLI {
class App;
}

namespace halftone::cli {

void add_export_command(CLI::App& app);

}  // namespace halftone::cli
