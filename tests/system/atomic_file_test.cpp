// SPDX-License-Identifier: Apache-2.0
#include "halftone/system/atomic_file.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>

#include "halftone/core/error.h"
#include "support/temp_folder.h"

namespace halftone::atomic_file_test {
namespace {

namespace fs = std::filesystem;
using test::message_of;
using test::read_text;
using test::TempFolder;
using test::write_text;
using testing::HasSubstr;

std::size_t entry_count(const fs::path& folder) {
  return static_cast<std::size_t>(
      std::distance(fs::directory_iterator(folder), fs::directory_iterator()));
}

// While one lives, no file of this process can grow beyond `bytes`: a disk that fills up.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) : handler_(signal(SIGXFSZ, SIG_IGN)) {
    getrlimit(RLIMIT_FSIZE, &before_);
    const rlimit limit{bytes, before_.rlim_max};
    EXPECT_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
  }
  ~FileSizeLimit() {
    setrlimit(RLIMIT_FSIZE, &before_);
    signal(SIGXFSZ, handler_);
  }
  FileSizeLimit(const FileSizeLimit&) = delete;
  FileSizeLimit& operator=(const FileSizeLimit&) = delete;

 private:
  rlimit before_{};
  sighandler_t handler_;
};

TEST(AtomicFile, ReplacesTheFileAsAWhole) {
  const TempFolder folder;
  const fs::path path = folder / "a";
  write_text(path, "old");
  AtomicFile file(path);
  file.write("new ");
  file.write("text");
  EXPECT_EQ(read_text(path), "old");
  file.commit();
  EXPECT_EQ(read_text(path), "new text");
  EXPECT_EQ(file.bytes(), 8);
  EXPECT_EQ(file.checksum(), file_checksum(path));
  EXPECT_EQ(entry_count(folder.path()), 1);
}

TEST(AtomicFile, LeavesNothingWithoutCommit) {
  const TempFolder folder;
  { AtomicFile(folder / "a").write("text"); }
  EXPECT_TRUE(fs::is_empty(folder.path()));
}

TEST(AtomicFile, WritesIntoTheCurrentFolder) {
  const TempFolder folder;
  const fs::path before = fs::current_path();
  fs::current_path(folder.path());
  write_file_atomically("plain-name", "text");
  fs::current_path(before);
  EXPECT_EQ(read_text(folder / "plain-name"), "text");
}

TEST(AtomicFile, AFullDiskLeavesTheOldFile) {
  const TempFolder folder;
  const fs::path path = folder / "a";
  write_text(path, "old");
  {
    const FileSizeLimit limit(1000);
    const std::string message =
        message_of<SystemError>([&] { write_file_atomically(path, std::string(5000, 'x')); });
    EXPECT_THAT(message, HasSubstr("cannot write '" + path.string() + "': the file would be"));
  }
  EXPECT_EQ(read_text(path), "old");
  EXPECT_EQ(entry_count(folder.path()), 1);
}

TEST(AtomicFile, APathThatCannotBeWrittenIsTheUsersMistake) {
  const TempFolder folder;
  write_text(folder / "file", "");
  fs::create_directory(folder / "folder");
  EXPECT_THAT(message_of<UserError>([&] { write_file_atomically(folder / "none/a", ""); }),
              HasSubstr("none/a': No such file or directory"));
  EXPECT_THAT(message_of<UserError>([&] { write_file_atomically(folder / "file/a", ""); }),
              HasSubstr("Not a directory"));
  EXPECT_THAT(message_of<UserError>([&] { write_file_atomically(folder / "folder", ""); }),
              HasSubstr("Is a directory"));
  EXPECT_EQ(entry_count(folder.path()), 2);
}

TEST(AtomicFolder, AppearsOnCommitAndReplacesAnOldOne) {
  const TempFolder folder;
  const fs::path path = folder / "step";
  {
    AtomicFolder first(path);
    write_text(first.staging() / "a", "1");
    EXPECT_FALSE(fs::exists(path));
    first.commit();
  }
  EXPECT_EQ(read_text(path / "a"), "1");
  {
    AtomicFolder second(path);
    write_text(second.staging() / "b", "2");
    second.commit();
  }
  EXPECT_FALSE(fs::exists(path / "a"));
  EXPECT_EQ(read_text(path / "b"), "2");
  { AtomicFolder(path).staging(); }
  EXPECT_EQ(entry_count(folder.path()), 1);
}

TEST(AtomicFolder, StartsEmptyAfterAKilledWriterOfTheSameProcessId) {
  const TempFolder folder;
  fs::create_directory(folder / ("step.tmp-" + std::to_string(getpid())));
  write_text(folder / ("step.tmp-" + std::to_string(getpid())) / "torn", "x");
  AtomicFolder writer(folder / "step");
  writer.commit();
  EXPECT_TRUE(fs::is_empty(folder / "step"));
}

TEST(RemoveLeftovers, TakesOnlyTemporaryNames) {
  const TempFolder folder;
  for (const char* name : {"a.tmp-1", "keep", "keep.tmp-", "keep.tmp-1x", "b.tmp-22"})
    write_text(folder / name, "");
  fs::create_directory(folder / "c.tmp-3");
  write_text(folder / "c.tmp-3/inside", "");
  remove_leftovers(folder.path());
  EXPECT_EQ(entry_count(folder.path()), 3);
  remove_leftovers(folder / "not there");
}

TEST(ThrowFileError, TellsTheUsersMistakesFromTheWorldsFaults) {
  for (const int error : {ENOSPC, EDQUOT, EIO, EFBIG})
    EXPECT_THROW(throw_file_error("write", "a", error), SystemError);
  for (const int error : {ENOENT, EACCES, EROFS, ENOTDIR, EISDIR, ENAMETOOLONG})
    EXPECT_THROW(throw_file_error("write", "a", error), UserError);
  EXPECT_EQ(message_of<SystemError>([] { throw_file_error("write", "a", ENOSPC); }),
            "cannot write 'a': the disk is full; free some space and try again");
}

TEST(File, WritingToAFullDeviceIsASystemError) {
  File file("/dev/full", O_WRONLY);
  EXPECT_THAT(message_of<SystemError>([&] { file.write("x", 1); }), HasSubstr("the disk is full"));
}

}  // namespace
}  // namespace halftone::atomic_file_test
