// SPDX-License-Identifier: Apache-2.0
#include "halftone/system/mapped_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "halftone/core/error.h"
#include "halftone/system/memory.h"
#include "support/paths.h"
#include "support/temp_folder.h"

namespace halftone::mapped_file_test {
namespace {

namespace fs = std::filesystem;
using test::message_of;
using test::TempFolder;
using test::write_text;
using testing::HasSubstr;

TEST(MappedFile, ShowsTheBytesOfTheFile) {
  const TempFolder folder;
  write_text(folder / "f", "some text");
  const MappedFile file(folder / "f");
  EXPECT_EQ(file.size(), 9U);
  EXPECT_EQ(file.bytes(0, 9), "some text");
  EXPECT_EQ(file.bytes(5, 3), "tex");
  EXPECT_EQ(file.bytes(9, 0), "");
  EXPECT_THROW(file.bytes(9, 1), c10::Error);
  EXPECT_THROW(file.bytes(1, ~std::uint64_t{0}), c10::Error);
}

TEST(MappedFile, MayBeEmptyOrDeleted) {
  const TempFolder folder;
  write_text(folder / "empty", "");
  const MappedFile empty(folder / "empty");
  EXPECT_EQ(empty.bytes(0, 0), "");
  empty.release();
  write_text(folder / "f", "text");
  const MappedFile deleted(folder / "f");
  fs::remove(folder / "f");
  EXPECT_EQ(deleted.bytes(0, 4), "text");
}

TEST(MappedFile, RefusesWhatIsNoFile) {
  const TempFolder folder;
  EXPECT_THAT(message_of<UserError>([&] { MappedFile file(folder / "no"); }), HasSubstr("No such"));
  EXPECT_THAT(message_of<UserError>([&] { MappedFile file(folder.path()); }),
              HasSubstr("found a folder"));
}

TEST(MappedFile, TellsWhenTheFileHasShrunk) {
  const TempFolder folder;
  write_text(folder / "f", std::string(10000, 'x'));
  const MappedFile file(folder / "f");
  fs::resize_file(folder / "f", 20);
  EXPECT_THAT(message_of<UserError>([&] { file.bytes(0, 1); }), HasSubstr("ended at byte 20"));
  fs::resize_file(folder / "f", 20000);
  EXPECT_EQ(file.bytes(9999, 1), std::string(1, '\0'));
}

TEST(MappedFile, CountsAsMemoryOnlyUntilItIsReleased) {
  constexpr std::uint64_t kBytes = std::uint64_t{64} << 20U;
  const TempFolder folder{fs::path(test::kBuildDir)};
  write_text(folder / "f", std::string(kBytes, 'x'));
  const MappedFile file(folder / "f");
  const std::uint64_t before = resident_bytes();
  const std::string_view bytes = file.bytes(0, kBytes);
  EXPECT_EQ(bytes.find('y'), bytes.npos);
  EXPECT_GT(resident_bytes(), before + kBytes / 2);
  file.release();
  EXPECT_LT(resident_bytes(), before + kBytes / 4);
  EXPECT_EQ(file.bytes(kBytes - 1, 1), "x");
}

}  // namespace
}  // namespace halftone::mapped_file_test
