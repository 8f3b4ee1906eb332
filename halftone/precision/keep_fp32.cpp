// SPDX-License-Identifier: Apache-2.0
#include "halftone/precision/keep_fp32.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <utility>

#include "halftone/autocast/keep_fp32.h"
#include "halftone/core/error.h"
#include "halftone/core/log.h"
#include "halftone/precision/module_pattern_impl.h"

namespace halftone {
namespace {

using torch::Tensor;

constexpr const char* kKeepFp32 = "keep_fp32";

struct NamedModule {
  ModuleName name;
  std::vector<Tensor> tensors;  // floating ones, of all below as well
};

std::vector<NamedModule> modules_of(torch::nn::Module& root) {
  std::vector<NamedModule> modules;
  root.apply([&](const std::string& path, torch::nn::Module& module) {
    NamedModule named{{path, module.name()}, module.parameters()};
    for (const Tensor& buffer : module.buffers())
      if (buffer.is_floating_point()) named.tensors.push_back(buffer);
    modules.push_back(std::move(named));
  });
  return modules;
}

std::vector<ModuleName> names_of(const std::vector<NamedModule>& modules) {
  std::vector<ModuleName> names;
  for (const NamedModule& module : modules) names.push_back(module.name);
  return names;
}

/// `paths` sorted, without those below another one.
std::vector<std::string> topmost(std::vector<std::string> paths) {
  std::sort(paths.begin(), paths.end());
  paths.erase(std::unique(paths.begin(), paths.end()), paths.end());
  std::vector<std::string> kept;
  for (const std::string& path : paths)
    if (std::none_of(paths.begin(), paths.end(),
                     [&](const std::string& other) { return is_below(path, other); }))
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
  const ModulePattern pattern(kKeepFp32, text);
  bool any_module = false;
  bool any_tensor = false;
  for (const NamedModule& module : modules) {
    if (!pattern.matches(module.name)) continue;
    any_module = true;
    any_tensor = any_tensor || !module.tensors.empty();
    matched.paths.push_back(module.name.path);
    matched.tensors.insert(matched.tensors.end(), module.tensors.begin(), module.tensors.end());
  }
  if (!any_module) throw pattern.matches_nothing(names_of(modules));
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
  for (const std::string& text : patterns) const ModulePattern checked(kKeepFp32, text);
}

void check_keep_fp32(torch::nn::Module& root, const std::vector<std::string>& patterns) {
  matches_of(root, patterns);
}

std::vector<std::string> keep_fp32(torch::nn::Module& root,
                                   const std::vector<std::string>& patterns, bool is_logged) {
  Matched matched = matches_of(root, patterns);
  for (const Tensor& tensor : matched.tensors) mark_keep_fp32(tensor);
  const std::vector<std::string> paths = topmost(std::move(matched.paths));
  if (is_logged && !paths.empty()) log_kept(paths);
  return paths;
}

}  // namespace halftone
