// SPDX-License-Identifier: Apache-2.0
// Private to the loaders: a value of their state, in a message.
#pragma once

#include <fmt/format.h>

#include <string>
#include <variant>

#include "halftone/core/state_dict.h"

namespace halftone {

inline std::string value_text(const StateDict::Value& value) {
  return std::visit([](const auto& held) { return fmt::format("{}", held); }, value);
}

}  // namespace halftone
