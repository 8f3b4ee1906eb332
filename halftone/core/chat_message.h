// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>

namespace halftone {

/// One turn of a chat.
struct ChatMessage {
  std::string role;  ///< "system", "user", "assistant" or "tool"
  std::string content;
  /// What the assistant thought before `content`.
  std::optional<std::string> reasoning_content = {};
  std::string tools = {};       ///< of the first message: a JSON array of what may be called
  std::string tool_calls = {};  ///< of the assistant: a JSON array of {"name", "arguments"}
};

}  // namespace halftone
