// SPDX-License-Identifier: Apache-2.0
#include "halftone/pretrain/prompt_file.h"

#include "halftone/pretrain/json_lines_impl.h"

namespace halftone {

std::vector<std::string> read_prompts(const std::filesystem::path& path) {
  std::vector<std::string> prompts;
  if (path.extension() == ".jsonl") {
    for_each_json_line(
        path, [&](const JsonField& root) { prompts.push_back(root["prompt"].as_string()); });
  } else {
    for_each_line(path, [&](const std::string& line, const std::string& /*place*/) {
      prompts.push_back(line);
    });
  }
  return prompts;
}

}  // namespace halftone
