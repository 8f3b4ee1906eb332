// SPDX-License-Identifier: Apache-2.0
#include "cli/command_words.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <span>

#include "halftone/core/error.h"
#include "halftone/core/text.h"

namespace halftone::cli {
namespace {

std::vector<const CLI::App*> commands_of(const CLI::App& command) {
  return command.get_subcommands([](const CLI::App*) { return true; });
}

const CLI::App* command_called(const CLI::App& command, const std::string& name) {
  for (const CLI::App* one : commands_of(command))
    if (one->get_name() == name) return one;
  return nullptr;
}

std::vector<std::string> flags_of(const CLI::App& command) {
  std::vector<std::string> flags;
  for (const CLI::Option* option : command.get_options())
    for (const std::string& name : option->get_lnames()) flags.push_back("--" + name);
  return flags;
}

std::string see_help(const CLI::App& command) {
  return fmt::format("see '{} --help'", command_path(command));
}

// "encode" alone is meant as "tokenizer encode".
std::optional<std::string> meant_command(const CLI::App& command, const std::string& word) {
  for (const CLI::App* one : commands_of(command))
    if (command_called(*one, word) != nullptr) return one->get_name() + " " + word;
  return nearest_match(word, command_names(command));
}

UserError no_such_command(const CLI::App& command, const std::string& word) {
  const std::optional<std::string> meant = meant_command(command, word);
  return UserError(
      fmt::format("there is no command '{}'; {}", word,
                  meant ? fmt::format("did you mean '{}'?", *meant) : see_help(command)));
}

// A flag that stands where the command should: before it, or instead of it.
UserError flag_before_command(const CLI::App& command, std::span<const std::string> rest) {
  const std::string flag = rest.front().substr(0, rest.front().find('='));
  if (const auto nearest = nearest_flag(flag, command))
    return UserError(fmt::format("there is no flag {}; did you mean {}?", flag, *nearest));
  for (const std::string& word : rest)
    if (command_called(command, word) != nullptr)
      return UserError(fmt::format("expected the command before its flags: {} {} {} ...",
                                   command_path(command), word, flag));
  return UserError(
      fmt::format("expected a command before the flag {}; {}", flag, see_help(command)));
}

}  // namespace

void check_command(const CLI::App& app, const std::vector<std::string>& args) {
  const CLI::App* command = &app;
  for (std::size_t i = 0; i < args.size() && !commands_of(*command).empty(); ++i) {
    if (args[i].starts_with('-')) {
      if (command->get_option_no_throw(args[i]) != nullptr) return;  // --help needs no command
      throw flag_before_command(*command, std::span(args).subspan(i));
    }
    const CLI::App* const next = command_called(*command, args[i]);
    if (next == nullptr) throw no_such_command(*command, args[i]);
    command = next;
  }
  if (!commands_of(*command).empty())
    throw UserError(fmt::format("expected a command; {}", see_help(*command)));
}

std::string command_path(const CLI::App& command) {
  const CLI::App* parent = command.get_parent();
  return parent == nullptr ? command.get_name() : command_path(*parent) + " " + command.get_name();
}

std::vector<std::string> command_names(const CLI::App& command) {
  std::vector<std::string> names;
  for (const CLI::App* one : commands_of(command)) names.push_back(one->get_name());
  return names;
}

std::optional<std::string> nearest_flag(const std::string& flag, const CLI::App& command) {
  const std::vector<std::string> flags = flags_of(command);
  const std::string as_part = "." + flag.substr(std::min<std::size_t>(2, flag.size()));
  for (const std::string& candidate : flags)
    if (as_part.size() > 1 && candidate.ends_with(as_part)) return candidate;
  for (const std::string& candidate : flags)
    if (flag.size() > 4 && candidate.starts_with(flag)) return candidate;
  return nearest_match(flag, flags);
}

}  // namespace halftone::cli
