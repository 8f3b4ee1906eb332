// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstddef>
#include <optional>

#include "halftone/core/text.h"
#include "halftone/precision/module_pattern_impl.h"

namespace halftone {
namespace {

constexpr std::string_view kTypePrefix = "type:";
constexpr std::size_t kMaxPatternLength = 1000;

/// "torch::nn::LinearImpl" -> "Linear"
std::string short_name(const std::string& type) {
  const std::size_t colon = type.rfind(':');
  const std::string name = colon == std::string::npos ? type : type.substr(colon + 1);
  return name.ends_with("Impl") ? name.substr(0, name.size() - 4) : name;
}

}  // namespace

ModulePattern::ModulePattern(std::string_view option, const std::string& text)
    : option_(option),
      text_(text),
      by_type_(text.starts_with(kTypePrefix)),
      regex_(by_type_ ? text.substr(kTypePrefix.size()) : text, RE2::Quiet) {
  if (text.size() > kMaxPatternLength)
    throw UserError(
        fmt::format("{}: expected a regular expression of at most {} characters, got {}", option,
                    kMaxPatternLength, text.size()));
  if (!regex_.ok())
    throw UserError(fmt::format("{}: expected a regular expression, got '{}' ({})", option, text,
                                regex_.error()));
}

bool ModulePattern::matches(const ModuleName& module) const {
  return RE2::PartialMatch(by_type_ ? module.type : module.path, regex_);
}

UserError ModulePattern::matches_nothing(const std::vector<ModuleName>& modules) const {
  std::vector<std::string> names;
  for (const ModuleName& module : modules)
    names.push_back(by_type_ ? short_name(module.type) : module.path);
  std::sort(names.begin(), names.end());
  names.erase(std::unique(names.begin(), names.end()), names.end());
  std::erase(names, "");
  const auto near = nearest_match(by_type_ ? text_.substr(kTypePrefix.size()) : text_, names);
  constexpr std::size_t kShown = 8;
  const std::size_t shown = std::min(kShown, names.size());
  const std::string hint =
      near ? fmt::format("did you mean '{}'?", *near)
           : fmt::format("there are {}{}",
                         fmt::join(names.begin(), names.begin() + static_cast<long>(shown), ", "),
                         names.size() > shown ? ", ..." : "");
  return UserError(fmt::format("{}: '{}' matches no {}; {}", option_, text_,
                               by_type_ ? "class of a module" : "module's path", hint));
}

bool is_below(const std::string& path, const std::string& ancestor) {
  return path != ancestor &&
         (ancestor.empty() || (path.starts_with(ancestor) && path[ancestor.size()] == '.'));
}

}  // namespace halftone
