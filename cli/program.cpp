// SPDX-License-Identifier: Apache-2.0
#include "cli/program.h"

#include <c10/util/Exception.h>
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <new>
#include <system_error>

#include "cli/command_words.h"
#include "halftone/core/error.h"
#include "halftone/core/message.h"
#include "halftone/core/text.h"
#include "halftone/kernels/common/fused_kernels.h"
#include "halftone/kernels/gemm/fast_cpu_gemms.h"
#include "halftone/kernels/gemm/matmul_environment.h"
#include "halftone/pretrain/config_schema.h"
#include "halftone/system/file.h"
#include "halftone/system/interrupt.h"
#include "halftone/system/terminal.h"

namespace halftone::cli {
namespace {

constexpr int kFailed = 1;
constexpr int kUserMistake = 2;
constexpr const char* kNoMemory =
    "out of memory; reduce --batch-size, --seq-len or the size of the model";

int complain(std::string message, int code) {
  while (message.ends_with('\n')) message.pop_back();
  std::replace(message.begin(), message.end(), '\n', ' ');
  say(fmt::format("{}{}\n", kErrorWords, message));
  return code;
}

bool is_switch_flag(const std::string& arg) {
  return std::any_of(config_fields().begin(), config_fields().end(), [&](const ConfigField& field) {
    return field.kind == ConfigKind::kSwitch && flag_of(field.key) == arg;
  });
}

const CLI::App& innermost_command(const CLI::App& app) {
  const auto commands = app.get_subcommands();
  return commands.empty() ? app : innermost_command(*commands.back());
}

// What is left over once the command and its own flags have been taken.
std::string unexpected_message(const CLI::App& app) {
  const CLI::App& command = innermost_command(app);
  const std::vector<std::string> rest = app.remaining(true);
  const auto flag = std::find_if(rest.begin(), rest.end(),
                                 [](const std::string& one) { return one.starts_with('-'); });
  const std::string help = fmt::format("see '{} --help'", command_path(command));
  if (flag != rest.end()) {
    const std::string name = flag->substr(0, flag->find('='));
    const auto nearest = nearest_flag(name, command);
    return fmt::format("there is no flag {}; {}", name,
                       nearest ? fmt::format("did you mean {}?", *nearest) : help);
  }
  const bool takes_data = command.get_option_no_throw("--data") != nullptr;
  return fmt::format("'{}' was not expected; {}{}", rest.empty() ? "" : rest.front(),
                     takes_data ? "data goes with --data, " : "", help);
}

// CLI11's "--data: 1 required PATH missing" and "--resume: At Most 1 required but received 2".
std::string wrong_count_message(const CLI::ArgumentMismatch& error) {
  const std::string what = error.what();
  const std::string name = what.substr(0, what.find(':'));
  return what.ends_with("missing")
             ? fmt::format("{}: expected a value after it, got none", name)
             : fmt::format("{}: expected one value; give the flag once", name);
}

// CLI11's "Could not convert: --seed = x".
std::string wrong_type_message(const CLI::ConversionError& error) {
  std::string what = error.what();
  const std::size_t name = what.find("--");
  const std::size_t equals = what.find(" = ");
  if (name == std::string::npos || equals == std::string::npos) return what;
  return fmt::format("{}: expected a number, got '{}'", what.substr(name, equals - name),
                     what.substr(equals + 3));
}

// LibTorch's ways to say that there is not that much memory.
bool is_out_of_memory(const c10::Error& error) {
  const std::string what = error.what_without_backtrace();
  return what.find("allocate memory") != std::string::npos ||
         what.find("out of memory") != std::string::npos ||
         what.find("Storage size calculation overflowed") != std::string::npos;
}

int parse_and_run(CLI::App& app, std::vector<std::string> args) {
  args = normalized(std::move(args));
  check_command(app, args);
  std::reverse(args.begin(), args.end());  // as CLI11 wants them
  try {
    app.parse(std::move(args));
    return 0;
  } catch (const CLI::ExtrasError&) {
    return complain(unexpected_message(app), kUserMistake);
  } catch (const CLI::RequiredError& error) {
    return complain(
        fmt::format("{}; see '{} --help'", error.what(), command_path(innermost_command(app))),
        kUserMistake);
  } catch (const CLI::ArgumentMismatch& error) {
    return complain(wrong_count_message(error), kUserMistake);
  } catch (const CLI::ConversionError& error) {
    return complain(wrong_type_message(error), kUserMistake);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help, --version
    return complain(error.what(), kUserMistake);
  }
}

// As throw_file_error has it: what a person can mend is their mistake.
int complain_about_file(const std::filesystem::filesystem_error& error) {
  try {
    throw_file_error("use", error.path1(), error.code().value());
  } catch (const UserError& mistake) {
    return complain(mistake.what(), kUserMistake);
  } catch (const SystemError& failure) {
    return complain(failure.what(), kFailed);
  }
}

int run_guarded(CLI::App& app, std::vector<std::string> args) try {
  // Words in the environment that mean nothing are said before any work is done.
  matmul_environment();
  reference_kernels();
  use_fast_cpu_gemms();
  return parse_and_run(app, std::move(args));
} catch (const Exit& exit) {
  return exit.code;
} catch (const UserError& error) {
  return complain(error.what(), kUserMistake);
} catch (const std::filesystem::filesystem_error& error) {
  return complain_about_file(error);
} catch (const std::bad_alloc&) {
  return complain(kNoMemory, kFailed);
} catch (const c10::Error& error) {
  if (is_out_of_memory(error)) return complain(kNoMemory, kFailed);
  return complain(error_text(error), kFailed);
} catch (const std::exception& error) {
  return complain(error.what(), kFailed);
}

}  // namespace

int interrupted_exit_code() {
  constexpr int kHangUp = 129;
  constexpr int kInterrupted = 130;
  return interrupting_signal() == SIGHUP ? kHangUp : kInterrupted;
}

void say(std::string_view text) { write_to_stderr(text); }

void print(std::string_view text) {
  errno = 0;
  if (std::fwrite(text.data(), 1, text.size(), stdout) == text.size() && std::fflush(stdout) == 0)
    return;
  if (errno == EPIPE) throw Exit{0};
  throw SystemError(
      fmt::format("cannot write to stdout: {}", std::generic_category().message(errno)));
}

std::string counted(std::uint64_t count, std::string_view one, std::string_view several) {
  return fmt::format("{} {}", count, count == 1 ? one : several);
}

std::vector<std::string> normalized(std::vector<std::string> args) {
  std::vector<std::string> result;
  for (std::size_t i = 0; i < args.size(); ++i) {
    std::string& arg = args[i];
    if (arg.starts_with("--")) {
      const std::size_t name_end = std::min(arg.find('='), arg.size());
      std::replace(arg.begin(), arg.begin() + static_cast<std::ptrdiff_t>(name_end), '_', '-');
    }
    if (is_switch_flag(arg)) {
      const bool has_value =
          i + 1 < args.size() && (args[i + 1] == "true" || args[i + 1] == "false");
      arg += "=" + (has_value ? args[++i] : "true");
    }
    result.push_back(std::move(arg));
  }
  return result;
}

void check_output_file(const std::string& flag, const std::string& path) {
  if (path.empty()) return;
  const std::filesystem::path folder = std::filesystem::absolute(path).parent_path();
  std::error_code ignored;
  if (!std::filesystem::is_directory(folder, ignored))
    throw UserError(fmt::format("{}: there is no folder '{}'", flag, folder.string()));
  if (std::filesystem::is_directory(path, ignored))
    throw UserError(fmt::format("{}: expected a file, but '{}' is a folder", flag, path));
}

int run_program(CLI::App& app, std::vector<std::string> args) {
  // A closed pipe and a file size limit then come back as errors of the call that meets them.
  std::signal(SIGPIPE, SIG_IGN);
  std::signal(SIGXFSZ, SIG_IGN);
  const int code = run_guarded(app, std::move(args));
  if (std::fflush(stdout) != 0 && errno != EPIPE && code == 0)
    return complain(
        fmt::format("cannot write to stdout: {}", std::generic_category().message(errno)), kFailed);
  return code;
}

}  // namespace halftone::cli
