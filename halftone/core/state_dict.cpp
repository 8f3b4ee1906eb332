// SPDX-License-Identifier: Apache-2.0
#include "halftone/core/state_dict.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <string_view>
#include <vector>

#include "halftone/core/error.h"

namespace halftone {
namespace {

template <class Map>
void copy_with_prefix(const Map& from, const std::string& prefix, Map& to) {
  for (const auto& [name, entry] : from) to[prefix + name] = entry;
}

template <class Map>
void copy_without_prefix(const Map& from, const std::string& prefix, Map& to) {
  for (auto it = from.lower_bound(prefix); it != from.end() && it->first.starts_with(prefix); ++it)
    to[it->first.substr(prefix.size())] = it->second;
}

std::string shape_text(const torch::Tensor& t) {
  return fmt::format("[{}]", fmt::join(t.sizes().begin(), t.sizes().end(), ", "));
}

std::string list_text(const std::vector<std::string>& names) {
  constexpr std::size_t kShown = 3;
  std::string text;
  for (std::size_t i = 0; i < std::min(names.size(), kShown); ++i)
    text += (i > 0 ? ", " : "") + names[i];
  return names.size() > kShown ? fmt::format("{} and {} more", text, names.size() - kShown) : text;
}

}  // namespace

template <class T>
T StateDict::get(const std::string& name) const {
  const auto found = values.find(name);
  if (found == values.end()) throw UserError(fmt::format("saved state lacks '{}'", name));
  if (const T* value = std::get_if<T>(&found->second)) return *value;
  if constexpr (std::is_same_v<T, double>) {
    if (const auto* integer = std::get_if<std::int64_t>(&found->second))
      return static_cast<double>(*integer);
  }
  throw UserError(fmt::format("saved state holds '{}' as another type than expected", name));
}

template bool StateDict::get<bool>(const std::string&) const;
template std::int64_t StateDict::get<std::int64_t>(const std::string&) const;
template double StateDict::get<double>(const std::string&) const;
template std::string StateDict::get<std::string>(const std::string&) const;

torch::Tensor StateDict::tensor(const std::string& name) const {
  const torch::Tensor& known = meta(name);
  if (!known.is_meta()) return known;
  const auto read = lazy.find(name);
  return read == lazy.end() ? known : read->second();
}

const torch::Tensor& StateDict::meta(const std::string& name) const {
  const auto found = tensors.find(name);
  if (found == tensors.end())
    throw UserError(fmt::format("saved state lacks the tensor '{}'", name));
  return found->second;
}

void StateDict::read_all() {
  for (auto& [name, tensor] : tensors) tensor = this->tensor(name);
  lazy.clear();
}

void StateDict::insert(const std::string& prefix, const StateDict& part) {
  copy_with_prefix(part.tensors, prefix, tensors);
  copy_with_prefix(part.values, prefix, values);
  copy_with_prefix(part.lazy, prefix, lazy);
}

StateDict StateDict::extract(const std::string& prefix) const {
  StateDict part;
  copy_without_prefix(tensors, prefix, part.tensors);
  copy_without_prefix(values, prefix, part.values);
  copy_without_prefix(lazy, prefix, part.lazy);
  return part;
}

std::string tensor_mismatches(const StateDict& expected, const StateDict& given) {
  std::vector<std::string> missing;
  std::vector<std::string> unexpected;
  std::vector<std::string> shapes;
  for (const auto& [name, parameter] : expected.tensors) {
    const auto found = given.tensors.find(name);
    if (found == given.tensors.end())
      missing.push_back(name);
    else if (found->second.sizes() != parameter.sizes())
      shapes.push_back(fmt::format("{} {} instead of {}", name, shape_text(found->second),
                                   shape_text(parameter)));
  }
  for (const auto& [name, tensor] : given.tensors)
    if (!expected.tensors.contains(name)) unexpected.push_back(name);
  std::string text;
  const auto add = [&](std::string_view what, const std::vector<std::string>& names) {
    if (!names.empty())
      text += fmt::format("{}{}: {}", text.empty() ? "" : "; ", what, list_text(names));
  };
  add("missing", missing);
  add("unexpected", unexpected);
  add("of another shape", shapes);
  return text;
}

}  // namespace halftone
