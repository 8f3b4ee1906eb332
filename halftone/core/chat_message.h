// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

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

/// A chat as ids. `is_answer` has one entry for each id: 1 where the assistant has to say it, from
/// the first id behind its header to the end mark.
struct ChatIds {
  std::vector<std::int32_t> ids;
  std::vector<std::uint8_t> is_answer;
};

}  // namespace halftone
