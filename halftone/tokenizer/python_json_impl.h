// SPDX-License-Identifier: Apache-2.0
// Private to this room.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace halftone {

/// `value` as Python's json.dumps(value, ensure_ascii=False) writes it, which is what chat
/// templates call tojson.
std::string python_json(const nlohmann::ordered_json& value);

}  // namespace halftone
