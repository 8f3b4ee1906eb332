// SPDX-License-Identifier: Apache-2.0
#include "halftone/optim/state_parts.h"

#include <fmt/format.h>

#include <charconv>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "halftone/core/error.h"

namespace halftone {
namespace {

struct PartOfTensor {
  std::string whole;  // its name
  std::int64_t begin = 0;
  std::int64_t end = 0;
};

std::optional<std::int64_t> whole_number(const char* begin, const char* end) {
  std::int64_t number = 0;
  const auto [stop, error] = std::from_chars(begin, end, number);
  return error == std::errc() && stop == end ? std::optional(number) : std::nullopt;
}

std::optional<PartOfTensor> parsed(const std::string& name) {
  const std::size_t bracket = name.rfind('['), colon = name.rfind(':');
  if (!name.ends_with(']') || bracket == std::string::npos || colon == std::string::npos ||
      colon < bracket)
    return std::nullopt;
  const char* const text = name.data();
  const auto begin = whole_number(text + bracket + 1, text + colon);
  const auto end = whole_number(text + colon + 1, text + name.size() - 1);
  if (!begin || !end) return std::nullopt;
  return PartOfTensor{name.substr(0, bracket), *begin, *end};
}

using Parts = std::map<std::int64_t, std::string>;  // names by their begins

StateDict only(const Parts& names, const StateDict& state) {
  StateDict some;
  for (const auto& [begin, name] : names) {
    some.tensors[name] = state.meta(name);
    if (const auto read = state.lazy.find(name); read != state.lazy.end()) some.lazy.insert(*read);
  }
  return some;
}

/// Their elements. Throws unless each begins where the one before ends.
std::int64_t checked_length(const std::string& whole, const Parts& parts, const StateDict& state) {
  std::int64_t at = 0;
  for (const auto& [begin, name] : parts) {
    const std::int64_t size = state.meta(name).numel();
    if (begin != at || parsed(name)->end != begin + size)
      throw UserError(fmt::format(
          "saved optimizer has no elements from {} on of '{}', but '{}': a part is missing or "
          "damaged; go back to the checkpoint before",
          at, whole, name));
    at += size;
  }
  return at;
}

}  // namespace

std::string part_name(const std::string& name, std::int64_t begin, std::int64_t size) {
  return fmt::format("{}[{}:{}]", name, begin, begin + size);
}

StateDict whole_states(const StateDict& parts) {
  StateDict whole{.values = parts.values};
  std::map<std::string, Parts> divided;
  for (const auto& [name, tensor] : parts.tensors) {
    if (const auto part = parsed(name)) {
      divided[part->whole][part->begin] = name;
      continue;
    }
    whole.tensors[name] = tensor;
    if (const auto read = parts.lazy.find(name); read != parts.lazy.end()) whole.lazy.insert(*read);
  }
  for (const auto& [name, own] : divided) {
    const std::int64_t length = checked_length(name, own, parts);
    const torch::ScalarType dtype = parts.meta(own.begin()->second).scalar_type();
    whole.tensors[name] = torch::empty({length}, torch::dtype(dtype).device(torch::kMeta));
    const auto source = std::make_shared<const StateDict>(only(own, parts));
    whole.lazy[name] = [source, own = own] {
      std::vector<torch::Tensor> flat;
      for (const auto& [begin, part] : own) flat.push_back(source->tensor(part).flatten());
      return torch::cat(flat);
    };
  }
  return whole;
}

}  // namespace halftone
