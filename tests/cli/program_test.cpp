// SPDX-License-Identifier: Apache-2.0
// The built program as a person meets it: arguments, exit code, what stands on stdout and stderr.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <cstdlib>

#include "support/paths.h"
#include "support/temp_folder.h"

namespace halftone {
namespace {

using test::read_text;
using test::TempFolder;
using testing::HasSubstr;

struct Outcome {
  int code = -1;
  std::string out;
  std::string err;
};

// `shell_words` follow the program's name on a shell's command line.
Outcome halftone(const std::string& shell_words) {
  const TempFolder folder;
  const std::string command =
      std::string(test::kBuildDir) + "/halftone " + shell_words + " 2>" + (folder / "err").string();
  const int status = std::system((command + " >" + (folder / "out").string()).c_str());
  return {WEXITSTATUS(status), read_text(folder / "out"), read_text(folder / "err")};
}

TEST(Program, MistakesEndInOneLineAndCodeTwo) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"", "expected a command; see 'halftone --help'"},
      {"tain", "there is no command 'tain'"},
      {"--vers", "there is no flag --vers; did you mean --version?"},
  };
  for (const auto& [words, expected] : cases) {
    const Outcome outcome = halftone(words);
    EXPECT_EQ(outcome.code, 2) << words;
    EXPECT_THAT(outcome.err, testing::StartsWith("halftone: error: ")) << words;
    EXPECT_THAT(outcome.err, HasSubstr(expected)) << words;
    EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), '\n'), 1) << outcome.err;
    EXPECT_EQ(outcome.out, "") << words;
  }
}

TEST(Program, HelpAndVersionGoToStdout) {
  const Outcome help = halftone("--help");
  EXPECT_EQ(help.code, 0);
  EXPECT_EQ(help.err, "");
  EXPECT_THAT(help.out, HasSubstr("Examples:"));
  const Outcome version = halftone("--version");
  EXPECT_EQ(version.code, 0);
  EXPECT_THAT(version.out, testing::MatchesRegex("halftone [0-9.]+ \\(LibTorch [0-9.]+\\)\n"));
}

TEST(Program, AFullStdoutIsAFailure) {
  const Outcome outcome = halftone("--help >/dev/full;  exit $?; true");
  EXPECT_EQ(outcome.code, 1);
}

}  // namespace
}  // namespace halftone
