// SPDX-License-Identifier: Apache-2.0
// What render() and jinja() both write. Private to this room.
#pragma once

#include <string>
#include <string_view>

namespace halftone {

// The words in which models of these formats were taught their tools: part of the format.
constexpr std::string_view kBeforeTools =
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>";
constexpr std::string_view kAfterTools =
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments "
    "within <tool_call></tool_call> XML tags:\n<tool_call>\n"
    "{\"name\": <function-name>, \"arguments\": <args-json-object>}\n</tool_call>";

}  // namespace halftone
