// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace CLI {
class App;
}

namespace halftone::cli {

/// halftone plan: memory and time of a run in every recipe, before it is started.
void add_plan_command(CLI::App& app);

}  // namespace halftone::cli
