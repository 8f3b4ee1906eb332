// SPDX-License-Identifier: Apache-2.0
// The words that name a command, judged before the flags behind them: with a wrong command every
// flag would be wrong, too.
#pragma once

#include <optional>
#include <string>
#include <vector>

namespace CLI {
class App;
}

namespace halftone::cli {

/// Throws UserError unless `args` begin with the command, and subcommand, that `app` asks for. It
/// names the nearest command. Arguments behind the command are not looked at.
void check_command(const CLI::App& app, const std::vector<std::string>& args);

/// "halftone tokenizer encode"
std::string command_path(const CLI::App& command);

std::vector<std::string> command_names(const CLI::App& command);

/// The flag of `command` that was meant by `flag`, if one is near: "--n-layers" is
/// "--model.n-layers", "--vers" is "--version".
std::optional<std::string> nearest_flag(const std::string& flag, const CLI::App& command);

}  // namespace halftone::cli
