// SPDX-License-Identifier: Apache-2.0
// Private to the loaders: what a resumed run's data is held to.
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <optional>
#include <string>
#include <variant>

#include "halftone/core/error.h"
#include "halftone/core/state_dict.h"

namespace halftone {

/// A value of a loader's state, in a message.
inline std::string value_text(const StateDict::Value& value) {
  return std::visit([](const auto& held) { return fmt::format("{}", held); }, value);
}

/// A value in which a loader's states `saved` and `now` differ, in words.
struct ChangedValue {
  std::string saved;
  std::string now;
};

/// That of `name`, which `now` has; nothing where they agree. Throws UserError where `saved` has
/// none.
inline std::optional<ChangedValue> changed_value(const StateDict& saved, const StateDict& now,
                                                 const std::string& name) {
  const auto found = saved.values.find(name);
  const StateDict::Value& current = now.values.at(name);
  if (found == saved.values.end())
    throw UserError(fmt::format("the saved loader state has no '{}'", name));
  if (found->second == current) return std::nullopt;
  return ChangedValue{value_text(found->second), value_text(current)};
}

/// Throws UserError unless the states agree in the value called `name`.
inline void check_same_value(const StateDict& saved, const StateDict& now,
                             const std::string& name) {
  if (const auto changed = changed_value(saved, now, name))
    throw UserError(
        fmt::format("cannot resume: {} differs from the saved run (saved {}, now {}); put it "
                    "back as it was, or start a new run",
                    name, changed->saved, changed->now));
}

/// Throws UserError for a position that no run can have saved.
inline std::int64_t saved_data_position(const StateDict& saved) {
  const auto position = saved.get<std::int64_t>("position");
  if (position < 0)
    throw UserError(fmt::format("the saved data position is {}, expected 0 or more", position));
  return position;
}

}  // namespace halftone
