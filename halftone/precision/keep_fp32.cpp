// SPDX-License-Identifier: Apache-2.0
#include "halftone/precision/keep_fp32.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <re2/re2.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <string_view>

#include "halftone/autocast/keep_fp32.h"
#include "halftone/core/error.h"
#include "halftone/core/log.h"
#include "halftone/core/text.h"

namespace halftone {
namespace {

using torch::Tensor;

struct NamedModule {
  std::string path;
  std::string type;
  std::vector<Tensor> tensors;  // floating ones, of all below as well
};

std::vector<NamedModule> modules_of(torch::nn::Module& root) {
  std::vector<NamedModule> modules;
  root.apply([&](const std::string& path, torch::nn::Module& module) {
    NamedModule named{path, module.name(), module.parameters()};
    for (const Tensor& buffer : module.buffers())
      if (buffer.is_floating_point()) named.tensors.push_back(buffer);
    modules.push_back(std::move(named));
  });
  return modules;
}

/// "torch::nn::LinearImpl" -> "Linear"
std::string short_name(const std::string& type) {
  const std::size_t colon = type.rfind(':');
  const std::string name = colon == std::string::npos ? type : type.substr(colon + 1);
  return name.ends_with("Impl") ? name.substr(0, name.size() - 4) : name;
}

/// A pattern over paths or over the names of classes. RE2 matches in linear time and bounded
/// memory, whatever a configuration file asks for.
class ModulePattern {
 public:
  explicit ModulePattern(const std::string& text)
      : text_(text),
        by_type_(text.starts_with(kType)),
        regex_(by_type_ ? text.substr(kType.size()) : text, RE2::Quiet) {
    if (text.size() > kMaxPatternLength)
      throw UserError(
          fmt::format("keep_fp32: expected a regular expression of at most {} characters, got {}",
                      kMaxPatternLength, text.size()));
    if (!regex_.ok())
      throw UserError(fmt::format("keep_fp32: expected a regular expression, got '{}' ({})", text,
                                  regex_.error()));
  }

  bool matches(const NamedModule& module) const {
    return RE2::PartialMatch(by_type_ ? module.type : module.path, regex_);
  }

  UserError matches_nothing(const std::vector<NamedModule>& modules) const {
    std::vector<std::string> names;
    for (const NamedModule& module : modules)
      names.push_back(by_type_ ? short_name(module.type) : module.path);
    std::sort(names.begin(), names.end());
    names.erase(std::unique(names.begin(), names.end()), names.end());
    std::erase(names, "");
    const auto near = nearest_match(by_type_ ? text_.substr(kType.size()) : text_, names);
    constexpr std::size_t kShown = 8;
    const std::size_t shown = std::min(kShown, names.size());
    const std::string hint =
        near ? fmt::format("did you mean '{}'?", *near)
             : fmt::format("there are {}{}",
                           fmt::join(names.begin(), names.begin() + static_cast<long>(shown), ", "),
                           names.size() > shown ? ", ..." : "");
    return UserError(fmt::format("keep_fp32: '{}' matches no {}; {}", text_,
                                 by_type_ ? "class of a module" : "module's path", hint));
  }

 private:
  static constexpr std::string_view kType = "type:";
  static constexpr std::size_t kMaxPatternLength = 1000;

  std::string text_;
  bool by_type_;
  RE2 regex_;
};

bool is_below(const std::string& path, const std::string& ancestor) {
  return ancestor.empty() || (path.starts_with(ancestor) && path[ancestor.size()] == '.');
}

/// `paths` sorted, without those below another one.
std::vector<std::string> topmost(std::vector<std::string> paths) {
  std::sort(paths.begin(), paths.end());
  paths.erase(std::unique(paths.begin(), paths.end()), paths.end());
  std::vector<std::string> kept;
  for (const std::string& path : paths)
    if (std::none_of(paths.begin(), paths.end(), [&](const std::string& other) {
          return other != path && is_below(path, other);
        }))
      kept.push_back(path);
  return kept;
}

/// What patterns match.
struct Matched {
  std::vector<std::string> paths;
  std::vector<Tensor> tensors;
};

void add_matches(const std::string& text, const std::vector<NamedModule>& modules,
                 Matched& matched) {
  const ModulePattern pattern(text);
  bool any_module = false;
  bool any_tensor = false;
  for (const NamedModule& module : modules) {
    if (!pattern.matches(module)) continue;
    any_module = true;
    any_tensor = any_tensor || !module.tensors.empty();
    matched.paths.push_back(module.path);
    matched.tensors.insert(matched.tensors.end(), module.tensors.begin(), module.tensors.end());
  }
  if (!any_module) throw pattern.matches_nothing(modules);
  if (!any_tensor)
    throw UserError(fmt::format(
        "keep_fp32: expected modules with parameters, '{}' matches only such without ('{}')", text,
        matched.paths.back()));
}

Matched matches_of(torch::nn::Module& root, const std::vector<std::string>& patterns) {
  const std::vector<NamedModule> modules = modules_of(root);
  Matched matched;
  for (const std::string& text : patterns) add_matches(text, modules, matched);
  return matched;
}

void log_kept(const std::vector<std::string>& paths) {
  constexpr std::size_t kShown = 6;
  const auto shown = paths.begin() + static_cast<long>(std::min(kShown, paths.size()));
  const std::string rest =
      paths.size() > kShown ? fmt::format(" and {} more", paths.size() - kShown) : "";
  log_note(fmt::format("kept in fp32: {}{}",
                       paths.front().empty()
                           ? "the whole model"
                           : fmt::format("{}", fmt::join(paths.begin(), shown, ", ")),
                       rest));
}

}  // namespace

void check_keep_fp32_patterns(const std::vector<std::string>& patterns) {
  for (const std::string& text : patterns) const ModulePattern checked(text);
}

void check_keep_fp32(torch::nn::Module& root, const std::vector<std::string>& patterns) {
  matches_of(root, patterns);
}

std::vector<std::string> keep_fp32(torch::nn::Module& root,
                                   const std::vector<std::string>& patterns) {
  Matched matched = matches_of(root, patterns);
  for (const Tensor& tensor : matched.tensors) mark_keep_fp32(tensor);
  const std::vector<std::string> paths = topmost(std::move(matched.paths));
  if (!paths.empty()) log_kept(paths);
  return paths;
}

}  // namespace halftone
