// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <CLI/CLI.hpp>

namespace halftone {

/// Registers `tokenizer train|encode|decode` with `app`. The commands run while `app` parses and
/// throw UserError or SystemError.
void add_tokenizer_command(CLI::App& app);

}  // namespace halftone
