// SPDX-License-Identifier: Apache-2.0
#include "halftone/system/process.h"

#include <gtest/gtest.h>

#include "halftone/core/error.h"

namespace halftone::process_test {
namespace {

TEST(RunProcess, GivesOutputAndExitCode) {
  const ProcessResult result = run_process({"sh", "-c", "echo out; echo err >&2; exit 3"});
  EXPECT_EQ(result.exit_code, 3);
  EXPECT_EQ(result.output, "out\nerr\n");
}

TEST(RunProcess, PassesArgumentsUntouchedByAShell) {
  EXPECT_EQ(run_process({"printf", "%s", "$HOME; `x` 'y'"}).output, "$HOME; `x` 'y'");
}

TEST(RunProcess, RunsInTheFolder) { EXPECT_EQ(run_process({"pwd"}, "/usr").output, "/usr\n"); }

TEST(RunProcess, TellsAMissingProgram) {
  EXPECT_TRUE(run_process({"no-such-program-anywhere"}).not_found());
  EXPECT_FALSE(run_process({"false"}).not_found());
}

TEST(RunProcess, TellsASignal) {
  EXPECT_EQ(run_process({"sh", "-c", "kill -9 $$"}).exit_code, 128 + 9);
}

TEST(RunProcess, ReadsMoreThanAPipeHolds) {
  const ProcessResult result = run_process({"head", "-c", "300000", "/dev/zero"});
  EXPECT_EQ(result.output.size(), 300000U);
}

}  // namespace
}  // namespace halftone::process_test
