// SPDX-License-Identifier: Apache-2.0
// The frame of all commands: one place turns errors into messages and exit codes.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace CLI {
class App;
}

namespace halftone::cli {

/// What the last line on stderr of whatever goes wrong begins with.
inline constexpr std::string_view kErrorWords = "halftone: error: ";

/// A command throws it to end with `code` and no message (130 after Ctrl-C).
struct Exit {
  int code;
};

/// Of a command that a signal has ended: 129 after SIGHUP (the terminal was closed), else 130.
int interrupted_exit_code();

/// Results for stdout: written and flushed at once. Throws Exit when the reader has gone (a closed
/// pipe) and SystemError when a file that stdout leads to can't be written.
void print(std::string_view text);

/// "1 file", "4 files".
std::string counted(std::uint64_t count, std::string_view one, std::string_view several);

/// Messages for people, on stderr. One that cannot be written (the terminal has gone) is dropped:
/// no run ends for that.
void say(std::string_view text);

/// Of a file that is written when all is computed: throws UserError, which begins with the flag,
/// where its folder does not exist or the path is a folder. An empty path is none.
void check_output_file(const std::string& flag, const std::string& path);

/// Parses `args` (without the program's name), runs the command they name and returns the exit
/// code: 0 done, 1 failed, 2 the user's mistake. The last line on stderr of whatever goes wrong
/// starts with "halftone: error:".
int run_program(CLI::App& app, std::vector<std::string> args);

/// Flags in one spelling: "--model.n_layers=2" -> "--model.n-layers=2", and for keys that
/// are switches "--pack false" -> "--pack=false" and a bare "--pack" -> "--pack=true".
std::vector<std::string> normalized(std::vector<std::string> args);

}  // namespace halftone::cli
