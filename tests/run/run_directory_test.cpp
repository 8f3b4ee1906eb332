// SPDX-License-Identifier: Apache-2.0
#include "halftone/run/run_directory.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "halftone/core/error.h"
#include "support/temp_folder.h"

namespace halftone::run_directory_test {
namespace {

namespace fs = std::filesystem;
using test::message_of;
using test::read_text;
using test::TempFolder;
using test::write_text;
using testing::HasSubstr;

std::string create_error(const fs::path& root, ExistingRun existing) {
  const std::string checked = message_of<UserError>([&] { check_new_run(root, existing); });
  EXPECT_EQ(checked, message_of<UserError>([&] { RunDirectory::create(root, existing); }));
  return checked;
}

void make_run(const fs::path& root) {
  const RunDirectory run = RunDirectory::create(root, ExistingRun::kRefuse);
  run.write_config("lr = 1\n");
  write_text(run.paths().metrics(), "{}\n");
  fs::create_directories(run.paths().checkpoints() / "step-00000001");
}

TEST(RunDirectory, IsMadeWithItsParents) {
  const TempFolder folder;
  check_new_run(folder / "a/b/run", ExistingRun::kRefuse);
  EXPECT_TRUE(fs::is_empty(folder.path()));
  make_run(folder / "a/b/run");
  EXPECT_EQ(read_text(find_run(folder / "a/b/run").config()), "lr = 1\n");
}

bool can_be_resumed(const fs::path& root) {
  try {
    check_new_run(root, ExistingRun::kRefuse);
  } catch (const ExistingRunError& error) {
    return error.has_checkpoint();
  }
  ADD_FAILURE() << root << " was not refused";
  return false;
}

TEST(RunDirectory, AnExistingRunNeedsResumeOrOverwrite) {
  const TempFolder folder;
  make_run(folder / "run");
  EXPECT_THAT(create_error(folder / "run", ExistingRun::kRefuse),
              testing::AllOf(HasSubstr("exists; resume it, overwrite it, or name another folder"),
                             testing::Not(HasSubstr("--"))));
  EXPECT_TRUE(can_be_resumed(folder / "run"));
  EXPECT_TRUE(fs::exists(folder / "run/metrics.jsonl"));
}

TEST(RunDirectory, ARestartEmptiesARunWithoutACheckpointOnly) {
  const TempFolder folder;
  make_run(folder / "run");
  EXPECT_THAT(create_error(folder / "run", ExistingRun::kRestart), HasSubstr("exists"));
  EXPECT_TRUE(fs::exists(folder / "run/metrics.jsonl"));

  fs::remove_all(folder / "run/checkpoints/step-00000001");
  EXPECT_THAT(create_error(folder / "run", ExistingRun::kRefuse),
              HasSubstr("ended before its first checkpoint: start it again, overwrite it"));
  EXPECT_FALSE(can_be_resumed(folder / "run"));
  const RunDirectory run = RunDirectory::create(folder / "run", ExistingRun::kRestart);
  EXPECT_FALSE(fs::exists(run.paths().metrics()));
  EXPECT_NO_THROW(RunDirectory::create(folder / "new", ExistingRun::kRestart));
}

TEST(RunDirectory, OverwriteRemovesTheRunAndNothingElse) {
  const TempFolder folder;
  make_run(folder / "run");
  write_text(folder / "run/metrics.csv", "step\n");
  fs::create_directories(folder / "run/tensorboard");
  write_text(folder / "run/tensorboard/events.out.tfevents.1", "");
  write_text(folder / "run/notes.txt", "mine");
  write_text(folder / "run/events.out.tfevents.1", "of another program");
  fs::create_directories(folder / "run/exports");
  const RunDirectory run = RunDirectory::create(folder / "run", ExistingRun::kReplace);
  EXPECT_FALSE(fs::exists(run.paths().metrics()));
  EXPECT_FALSE(fs::exists(run.paths().config()));
  EXPECT_FALSE(fs::exists(folder / "run/metrics.csv"));
  EXPECT_FALSE(fs::exists(folder / "run/tensorboard"));
  EXPECT_TRUE(fs::is_empty(run.paths().checkpoints()));
  EXPECT_TRUE(fs::exists(folder / "run/events.out.tfevents.1"));
  EXPECT_TRUE(fs::exists(folder / "run/exports"));
  EXPECT_EQ(read_text(folder / "run/notes.txt"), "mine");
}

TEST(RunDirectory, AFolderThatIsNoRunIsLeftAlone) {
  const TempFolder folder;
  fs::create_directories(folder / "photos/checkpoints");
  write_text(folder / "photos/config.toml", "");
  for (const ExistingRun existing :
       {ExistingRun::kRefuse, ExistingRun::kRestart, ExistingRun::kReplace})
    EXPECT_THAT(create_error(folder / "photos", existing), HasSubstr("not a halftone run"));
  EXPECT_TRUE(fs::exists(folder / "photos/checkpoints"));
}

TEST(RunDirectory, AnEmptyFolderAndARunThatNeverBeganAreFine) {
  const TempFolder folder;
  fs::create_directory(folder / "run");
  { const RunDirectory first = RunDirectory::create(folder / "run", ExistingRun::kRefuse); }
  EXPECT_NO_THROW(RunDirectory::create(folder / "run", ExistingRun::kRefuse));
}

TEST(RunDirectory, PathsThatCannotBeFolders) {
  const TempFolder folder;
  write_text(folder / "file", "");
  EXPECT_THAT(create_error(folder / "file", ExistingRun::kRefuse), HasSubstr("Not a directory"));
  EXPECT_THAT(create_error(folder / "file/run", ExistingRun::kReplace),
              HasSubstr("Not a directory"));
  EXPECT_EQ(read_text(folder / "file"), "");
}

TEST(RunDirectory, OneProcessAtATime) {
  const TempFolder folder;
  make_run(folder / "run");
  {
    const RunDirectory first = RunDirectory::resume(folder / "run");
    EXPECT_THAT(message_of<UserError>([&] { RunDirectory::resume(folder / "run"); }),
                HasSubstr("is in use by another process"));
    EXPECT_THAT(
        message_of<UserError>([&] { RunDirectory::create(folder / "run", ExistingRun::kReplace); }),
        HasSubstr("is in use by another process"));
    EXPECT_TRUE(fs::exists(folder / "run/metrics.jsonl"));
    EXPECT_NO_THROW(find_run(folder / "run"));
  }
  EXPECT_NO_THROW(RunDirectory::resume(folder / "run"));
}

TEST(RunDirectory, ResumeNeedsARunAndClearsLeftovers) {
  const TempFolder folder;
  EXPECT_THAT(message_of<UserError>([&] { RunDirectory::resume(folder / "none"); }),
              HasSubstr("there is no run directory"));
  EXPECT_THAT(message_of<UserError>([&] { RunDirectory::resume(folder.path()); }),
              HasSubstr("is not a run directory: it has no config.toml"));
  EXPECT_TRUE(fs::is_empty(folder.path()));
  make_run(folder / "run");
  write_text(folder / "run/config.toml.tmp-77", "");
  RunDirectory::resume(folder / "run");
  EXPECT_FALSE(fs::exists(folder / "run/config.toml.tmp-77"));
}

}  // namespace
}  // namespace halftone::run_directory_test
