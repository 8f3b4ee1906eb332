// SPDX-License-Identifier: Apache-2.0
// Runs of the built program on two small texts: what it says, and what stands in metrics.jsonl.
#pragma once

#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "support/built_program.h"
#include "support/temp_folder.h"

namespace halftone::test {

using Words = std::vector<std::string>;
using Flags = std::map<std::string, std::string>;

struct RunOutcome {
  int code = 0;
  std::string out, err;
};

/// A folder with text.jsonl, 300 lines, and foreign.txt, other text of `foreign_lines`.
class ProgramRun : public testing::Test {
 protected:
  explicit ProgramRun(int foreign_lines) {
    std::string lines, foreign;
    for (int i = 0; i < 300; ++i)
      lines += "{\"text\": \"Line " + std::to_string(i) + ": " + std::to_string(i * i % 97) +
               " geese over the river, 春江花月夜.\"}\n";
    for (int i = 0; i < foreign_lines; ++i)
      foreign += std::to_string(i * i * i) + " QUITE (other) WORDS\n";
    write_text(folder_ / "text.jsonl", lines);
    write_text(folder_ / "foreign.txt", foreign);
  }

  RunOutcome run(const Words& words) const {
    const ProgramEnd end = wait_for_program(start_program(words, folder_ / "out", folder_ / "err"));
    return {end.code, read_text(folder_ / "out"), read_text(folder_ / "err")};
  }

  /// `more`: flags that add to `flags` or take their place.
  static Words words_of(const std::string& command, Flags flags, const Flags& more) {
    for (const auto& [flag, value] : more) flags[flag] = value;
    if (flags.contains("--max-epochs") || flags.contains("--max-time")) flags.erase("--max-steps");
    Words words = {command};
    for (const auto& [flag, value] : flags) words.insert(words.end(), {flag, value});
    return words;
  }

  /// Without what is measured; of the lines that are whole.
  std::vector<nlohmann::json> metrics(const std::string& run) const {
    std::vector<nlohmann::json> lines;
    std::ifstream file(folder_ / run / "metrics.jsonl");
    for (std::string line; std::getline(file, line);) {
      auto parsed = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
      if (!parsed.is_object()) break;
      for (const char* timing : {"tokens_per_s", "step_ms", "rss_mib", "cuda_mib", "tensors_mib"})
        parsed.erase(timing);
      lines.push_back(std::move(parsed));
    }
    return lines;
  }

  TempFolder folder_;
};

}  // namespace halftone::test
