// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace CLI {
class App;
}

namespace halftone::cli {

/// halftone doctor: what this machine can do, and which precision that speaks for.
void add_doctor_command(CLI::App& app);

}  // namespace halftone::cli
