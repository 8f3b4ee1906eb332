// SPDX-License-Identifier: Apache-2.0
#include "halftone/diagnostics/tune/layer_patterns.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <re2/re2.h>

#include <set>
#include <string_view>

namespace halftone {
namespace {

constexpr std::size_t kLongestPattern = 900;  // keep_fp32() takes 1,000 characters

bool is_number(std::string_view part) {
  return !part.empty() && part.find_first_not_of("0123456789") == std::string_view::npos;
}

/// The parts of `path` between its dots.
std::vector<std::string> parts_of(const std::string& path) {
  std::vector<std::string> parts;
  std::size_t begin = 0;
  while (true) {
    const std::size_t end = path.find('.', begin);
    parts.push_back(path.substr(begin, end - begin));
    if (end == std::string::npos) return parts;
    begin = end + 1;
  }
}

/// The pattern of the first `count` of a path's parts, whatever its numbers are.
std::string role_of(std::vector<std::string> parts, std::size_t count) {
  parts.resize(count);
  for (std::string& part : parts) part = is_number(part) ? "\\d+" : RE2::QuoteMeta(part);
  return fmt::format("{}", fmt::join(parts, "\\."));
}

/// The formats of all layers that are, or are below, what a role names.
std::map<std::string, std::set<ComputeType>> formats_by_role(
    const std::map<std::string, ComputeType>& layers) {
  std::map<std::string, std::set<ComputeType>> formats;
  for (const auto& [path, type] : layers) {
    const std::vector<std::string> parts = parts_of(path);
    for (std::size_t count = 0; count <= parts.size(); ++count)
      formats[role_of(parts, count)].insert(type);
  }
  return formats;
}

/// Alternatives as patterns that match whole paths, each of a length that is taken.
std::vector<std::string> whole_patterns(const std::vector<std::string>& alternatives) {
  std::vector<std::string> patterns;
  std::vector<std::string> together;
  std::size_t length = 0;
  const auto flush = [&] {
    if (together.size() == 1) patterns.push_back(fmt::format("^{}$", together.front()));
    if (together.size() > 1) patterns.push_back(fmt::format("^({})$", fmt::join(together, "|")));
    together.clear();
    length = 0;
  };
  for (const std::string& one : alternatives) {
    if (length + one.size() > kLongestPattern) flush();
    together.push_back(one);
    length += one.size() + 1;
  }
  flush();
  return patterns;
}

}  // namespace

std::vector<std::string> layer_precision_texts(const std::map<std::string, ComputeType>& layers,
                                               ComputeType recipe, bool by_parents) {
  const std::map<std::string, std::set<ComputeType>> formats = formats_by_role(layers);
  std::map<ComputeType, std::vector<std::string>> alternatives;
  std::set<std::string> named;
  for (const auto& [path, type] : layers) {
    if (type == recipe) continue;
    const std::vector<std::string> parts = parts_of(path);
    std::string pattern = RE2::QuoteMeta(path);
    for (std::size_t count = by_parents ? 0 : parts.size(); count <= parts.size(); ++count) {
      const std::string role = role_of(parts, count);
      if (formats.at(role).size() > 1) continue;
      pattern = role;
      break;
    }
    if (named.insert(pattern).second) alternatives[type].push_back(pattern);
  }
  std::vector<std::string> texts;
  for (const auto& [type, patterns] : alternatives) {
    const bool is_all = patterns.size() == 1 && patterns.front().empty();
    for (const std::string& pattern :
         is_all ? std::vector<std::string>{".*"} : whole_patterns(patterns))
      texts.push_back(fmt::format("{}={}", pattern, to_string(type)));
  }
  return texts;
}

}  // namespace halftone
