// SPDX-License-Identifier: Apache-2.0
// A program of several commands, each a function that says its options, reads them, and works:
//
//   void paint(Command& command) {
//     const std::string& run = command.argument("RUN", "what train wrote");
//     const std::int64_t& steps = command.count("--steps", 30, "from noise to picture");
//     command.read();
//     ...  // run and steps are what the command line says
//   }
//   int main(int argc, char** argv) {
//     return run_program({"painter", "Paints.", {{"paint", "paints what one says", paint}}}, argc,
//     argv);
//   }
#pragma once

#include <halftone/core/error.h>
#include <halftone/core/message.h>
#include <halftone/core/text.h>
#include <halftone/system/memory.h>
#include <torch/utils.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <functional>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

/// The command line of one command. Each option is called once, before read(), and returns a
/// reference to what read() sets.
class Command {
 public:
  /// `threads`: what LibTorch computes with, unless --threads says another number; 0: its own.
  Command(const std::string& name, const std::string& what, std::vector<std::string> words,
          std::int64_t threads)
      : app_(what, name), words_(std::move(words)), threads_(threads) {}

  // What the command must be given.
  std::string& argument(const std::string& name, const std::string& meaning) {
    std::string& value = kept(std::string());
    app_.add_option(name, value, meaning)->required();
    return value;
  }
  std::vector<std::string>& arguments(const std::string& name, const std::string& meaning) {
    std::vector<std::string>& values = kept(std::vector<std::string>());
    app_.add_option(name, values, meaning)->required();
    return values;
  }

  // What it may be given: "--name".
  std::string& text(const std::string& flag, const std::string& usual, const std::string& meaning) {
    return bound(flag, kept(usual), meaning);
  }
  /// An integer from 1 on; from 0 on where that is the usual one.
  std::int64_t& count(const std::string& flag, std::int64_t usual, const std::string& meaning) {
    return bound(flag, kept(usual), meaning);
  }
  void flag(const std::string& name, bool& value, const std::string& meaning) {
    app_.add_flag(name, value, meaning);
  }
  /// With commas between.
  std::vector<std::string>& list(const std::string& flag, const std::vector<std::string>& usual,
                                 const std::string& meaning) {
    return bound(flag, kept(usual), meaning);
  }
  /// An option for each of the fields() whose meaning it says, as train/hyper_parameters.h has
  /// them: "decoder_dim" is --decoder-dim. read() calls check() of Options that have it.
  template <class Options>
  Options& fields(const Options& usual) {
    Options& options = kept(usual);
    options.fields([&](const std::string& name, auto& value, const auto&... meaning) {
      std::string flag = "--" + name;
      std::replace(flag.begin(), flag.end(), '_', '-');
      (bound(flag, value, meaning), ...);
    });
    if constexpr (requires { options.check(); }) checks_.push_back([&options] { options.check(); });
    return options;
  }
  /// An option that sets `value`, which outlives read(); an integer as count() takes it, words as
  /// list() does.
  template <class Value>
  Value& bound(const std::string& flag, Value& value, const std::string& meaning,
               bool is_zero_fine = false) {
    CLI::Option* const option = app_.add_option(flag, value, meaning)->capture_default_str();
    if constexpr (std::is_same_v<Value, std::int64_t>)
      option->check([least = is_zero_fine || value == 0 ? 0 : 1](const std::string& text) {
        const auto number = halftone::parse_number(text);
        return number && *number >= least && std::floor(*number) == *number
                   ? std::string()
                   : "expected an integer from " + std::to_string(least) + " on, got " + text;
      });
    if constexpr (std::is_same_v<Value, std::vector<std::string>>) option->delimiter(',');
    return value;
  }

  // What several commands and programs have.
  std::string& run() { return argument("RUN", "Folder of a run, that train wrote"); }
  std::string& precision() {
    return text("--precision", "bf16-mixed", "As docs/numerics.md lists them");
  }
  void keep_fp32(std::vector<std::string>& patterns) {
    app_.add_option("--keep-fp32", patterns,
                    "Regular expressions: modules whose names match stay in fp32");
  }
  void budget(std::string& value, const std::string& meaning) {
    app_.add_option("--budget", value, meaning)
        ->capture_default_str()
        ->check([](const std::string& text) {
          const bool known = text == "available" || text == "unlimited";
          return known || halftone::parse_bytes(text) ? std::string()
                                                      : "expected 2GiB or available, got " + text;
        });
  }

  /// Reads the command line, and takes --threads.
  void read() {
    bound("--threads", threads_, "That LibTorch computes with");
    std::reverse(words_.begin(), words_.end());  // as CLI11 wants them
    parse([&] { app_.parse(words_); }, app_);
    for (const auto& check : checks_) check();
    if (threads_ > 0) torch::set_num_threads(static_cast<int>(threads_));
  }

  /// What CLI11 refuses as a UserError of one line.
  static void parse(const std::function<void()>& work, const CLI::App& app) {
    try {
      work();
    } catch (const CLI::Success&) {  // --help
      throw;
    } catch (const CLI::ParseError& error) {
      std::string message = error.what();
      std::replace(message.begin(), message.end(), '\n', ' ');
      throw halftone::UserError(message + "; see '" + app.get_name() + " --help'");
    }
  }
  CLI::App& app() { return app_; }

  /// A value that lives as long as the command.
  template <class Value>
  Value& kept(Value usual) {
    const auto value = std::make_shared<Value>(std::move(usual));
    kept_.push_back(value);
    return *value;
  }

 private:
  CLI::App app_;
  std::vector<std::string> words_;
  std::int64_t threads_;
  std::vector<std::shared_ptr<void>> kept_;
  std::vector<std::function<void()>> checks_;  // of what was read
};

/// Thrown where a signal such as that of Ctrl-C has ended the work: the exit code is 128 and its
/// number, as shells expect it.
struct StoppedBySignal {
  int signal = 0;
};

struct ProgramCommand {
  std::string name;
  std::string what;
  std::function<void(Command&)> work;
};

struct Program {
  std::string name;
  std::string what;
  std::vector<ProgramCommand> commands;
  std::int64_t threads = 0;  // without --threads; 0: as many as LibTorch takes
};

/// main(): exit code 2 for what the caller can mend, 1 for other errors, each one line on stderr.
inline int run_program(const Program& program, int argc, char** argv) {
  halftone::keep_freed_memory();
  CLI::App app(program.what, program.name);
  const std::string word = argc > 1 ? argv[1] : "";
  try {
    for (const ProgramCommand& command : program.commands) {
      app.add_subcommand(command.name, command.what);
      if (word != command.name) continue;
      Command chosen(program.name + " " + command.name, command.what, {argv + 2, argv + argc},
                     program.threads);
      try {
        command.work(chosen);
      } catch (const CLI::Success& wish) {
        return chosen.app().exit(wish);
      }
      return 0;
    }
    if (!word.starts_with('-'))
      throw halftone::UserError("expected a command, got '" + word + "'; see '" + program.name +
                                " --help'");
    Command::parse([&] { app.parse(argc, argv); }, app);
  } catch (const CLI::Success& wish) {
    return app.exit(wish);
  } catch (const StoppedBySignal& stopped) {
    return 128 + stopped.signal;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", halftone::error_text(error).c_str());
    return dynamic_cast<const halftone::UserError*>(&error) != nullptr ? 2 : 1;
  }
  return 0;
}
