// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace CLI {
class App;
}

namespace halftone::cli {

/// halftone bench [CONFIG.toml] --data PATH: every recipe on the same data and seeds.
void add_bench_command(CLI::App& app);

}  // namespace halftone::cli
