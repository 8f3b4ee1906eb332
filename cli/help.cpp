// SPDX-License-Identifier: Apache-2.0
#include "cli/help.h"

#include <fmt/format.h>

#include <sstream>

namespace halftone::cli {
namespace {

constexpr std::size_t kWidth = 80;
constexpr std::size_t kColumn = 30;  // where descriptions begin

std::string beside(const std::string& name, const std::string& description) {
  const std::string next_line = fmt::format("\n{:{}}", "", kColumn);
  std::string text =
      name.size() + 2 > kColumn ? name + next_line : fmt::format("{:<{}}", name, kColumn);
  std::istringstream words(description);
  std::size_t at = kColumn;
  for (std::string word; words >> word;) {
    const bool fits = at + 1 + word.size() <= kWidth;
    if (at > kColumn) text += fits ? " " : next_line;
    at = (at > kColumn && fits ? at + 1 : kColumn) + word.size();
    text += word;
  }
  return text + "\n";
}

}  // namespace

std::string HelpFormatter::make_option(const CLI::Option* option, bool is_positional) const {
  return beside(
      fmt::format("  {}{}", make_option_name(option, is_positional), make_option_opts(option)),
      option->get_description() +
          (option->get_default_str().empty() ? "" : " [" + option->get_default_str() + "]"));
}

std::string HelpFormatter::make_subcommand(const CLI::App* command) const {
  return beside("  " + command->get_name(), command->get_description());
}

std::string HelpFormatter::make_option_opts(const CLI::Option* option) const {
  std::string text;
  if (option->get_type_size() != 0 && !option->get_type_name().empty() && !option->get_positional())
    text += " " + option->get_type_name();
  if (option->get_required() && !option->get_positional()) text += " (required)";
  return text;
}

}  // namespace halftone::cli
