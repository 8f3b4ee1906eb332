// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "halftone/core/error.h"
#include "halftone/dist/place_variables_impl.h"

namespace halftone {
namespace {

UserError missing_variable(const std::string& name, const std::string& other) {
  return UserError(
      fmt::format("the environment has {1}, but not {0}: the launcher of several processes sets "
                  "both; set {0}, or "
                  "unset {1} to train with one process",
                  name, other));
}

std::int64_t parse_variable(const std::string& name, const std::string& text,
                            PlaceVariables::Range range) {
  std::int64_t value = 0;
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || stop != end || value < range.first || value > range.last)
    throw UserError(fmt::format(
        "the environment's {} must be a whole number from {} to {}, but it is '{}'; the "
        "launcher of several processes sets it",
        name, range.first, range.last, text));
  return value;
}

}  // namespace

std::optional<std::string> PlaceVariables::text(const std::string& name) const {
  std::optional<std::string> value = environment_(name);
  if (value && value->empty()) return std::nullopt;
  return value;
}

std::string PlaceVariables::text_beside(const std::string& name, const std::string& other) const {
  const std::optional<std::string> value = text(name);
  if (!value) throw missing_variable(name, other);
  return *value;
}

std::optional<std::int64_t> PlaceVariables::number(const std::string& name, Range range) const {
  const std::optional<std::string> value = text(name);
  if (!value) return std::nullopt;
  return parse_variable(name, *value, range);
}

std::int64_t PlaceVariables::number_beside(const std::string& name, const std::string& other,
                                           Range range) const {
  return parse_variable(name, text_beside(name, other), range);
}

void PlaceVariables::read_rank(ProcessPlace& place, const std::string& rank,
                               const std::string& size) const {
  place.size = number_beside(size, rank, {1, kMaxProcesses});
  place.rank = number_beside(rank, size, {0, kMaxProcesses});
  if (place.rank >= place.size)
    throw UserError(fmt::format(
        "the environment has {0}={1} with {2}={3}, but ranks begin at 0: {0} must be less than {2}",
        rank, place.rank, size, place.size));
}

void PlaceVariables::read_local_rank(ProcessPlace& place, const std::string& rank,
                                     const std::string& size) const {
  const auto local_rank = number(rank, {0, place.size - 1});
  const auto local_size = number(size, {1, place.size});
  if (local_rank && local_size && *local_rank >= *local_size)
    throw UserError(fmt::format(
        "the environment has {0}={1} with {2}={3}, but ranks begin at 0: {0} must be less than {2}",
        rank, *local_rank, size, *local_size));
  place.local_rank = local_rank.value_or(place.local_rank);
  place.local_size = local_size.value_or(std::max(place.local_size, place.local_rank + 1));
}

}  // namespace halftone
