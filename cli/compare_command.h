// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace CLI {
class App;
}

namespace halftone::cli {

/// halftone compare: the same step in two precisions, tensor by tensor.
void add_compare_command(CLI::App& app);

}  // namespace halftone::cli
