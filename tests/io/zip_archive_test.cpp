// SPDX-License-Identifier: Apache-2.0
#include "halftone/io/zip_archive.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <optional>

#include "halftone/core/error.h"
#include "support/paths.h"
#include "support/temp_folder.h"
#include "support/torch_file.h"

namespace halftone::zip_archive_test {
namespace {

using test::message_of;
using test::read_text;
using test::TempFolder;
using test::write_text;
using test::zip_of;
using test::ZipPart;
using testing::HasSubstr;

constexpr std::uint64_t kEnough = 1 << 20;

const std::vector<ZipPart> kParts = {
    {"b/long", std::string(5000, 'x') + "end"}, {"a", "first"}, {"b/empty", ""}};

std::map<std::string, std::string> contents(const std::filesystem::path& path) {
  const ZipArchive zip(path);
  std::map<std::string, std::string> all;
  for (const ZipEntry& entry : zip.entries()) all[entry.name] = zip.read_all(entry, kEnough);
  return all;
}

/// What `bytes` as a file hold, or nothing where it is refused. Other exceptions are the test's.
std::optional<std::map<std::string, std::string>> contents_or_refused(const std::string& bytes) {
  const TempFolder folder;
  write_text(folder / "a.zip", bytes);
  try {
    return contents(folder / "a.zip");
  } catch (const UserError& error) {
    EXPECT_THAT(error.what(), HasSubstr("a.zip'"));
    return std::nullopt;
  }
}

std::map<std::string, std::string> expected() {
  std::map<std::string, std::string> all;
  for (const auto& [name, bytes] : kParts) all[name] = bytes;
  return all;
}

TEST(ZipArchive, ReadsEntriesAndParts) {
  for (const bool is_zip64 : {false, true}) {
    SCOPED_TRACE(is_zip64);
    const TempFolder folder;
    write_text(folder / "a.zip",
               zip_of(kParts, {.is_zip64 = is_zip64, .comment = "PK\5\6" + std::string(40, '-')}));
    EXPECT_EQ(contents(folder / "a.zip"), expected());
    EXPECT_TRUE(begins_as_zip(folder / "a.zip"));
    const ZipArchive zip(folder / "a.zip");
    std::filesystem::remove(folder / "a.zip");
    EXPECT_EQ(zip.find("b/lon"), nullptr);
    EXPECT_EQ(zip.find("c"), nullptr);
    const ZipEntry* entry = zip.find("b/long");
    ASSERT_NE(entry, nullptr);
    EXPECT_EQ(entry->size, 5003U);
    std::string part(4, ' ');
    zip.read(*entry, 4999, part.data(), part.size());
    EXPECT_EQ(part, "xend");
    EXPECT_THROW(zip.read(*entry, 5000, part.data(), part.size()), c10::Error);
    EXPECT_THAT(message_of<UserError>([&] { zip.read_all(*entry, 5002); }),
                HasSubstr("expected at most"));
  }
}

TEST(ZipArchive, ReadsWhatTorchWrote) {
  const ZipArchive zip(std::string(test::kGoldenDir) + "/pth/half.pth");
  ASSERT_NE(zip.find("half/byteorder"), nullptr);
  EXPECT_EQ(zip.read_all(*zip.find("half/byteorder"), 6), "little");
}

TEST(ZipArchive, ChecksWhatItReads) {
  const TempFolder folder;
  std::string bytes = zip_of(kParts);
  bytes[bytes.find("xend")] = 'y';
  write_text(folder / "a.zip", bytes);
  const ZipArchive zip(folder / "a.zip");
  EXPECT_EQ(zip.read_all(*zip.find("a"), kEnough), "first");
  const ZipEntry& damaged = *zip.find("b/long");
  EXPECT_THAT(message_of<UserError>([&] { zip.read_all(damaged, kEnough); }),
              HasSubstr("the checksum of its entry \"b/long\" is "));
  char one = 0;
  EXPECT_THROW(zip.read(damaged, 0, &one, 1), UserError) << "though that part is whole";
  // A checksum of 0 is one that the writer left out.
  write_text(folder / "b.zip", zip_of(kParts, {.has_checksums = false}));
  EXPECT_EQ(contents(folder / "b.zip"), expected());
}

TEST(ZipArchive, RefusesWhatIsWrong) {
  const TempFolder folder;
  const std::string good = zip_of({{"a", "one"}, {"b", "two"}});
  const std::size_t first = good.find("PK\1\2");
  const std::size_t second = good.rfind("PK\1\2");
  const std::size_t end = good.rfind("PK\5\6");
  const auto with = [&](std::size_t at, const std::string& bytes) {
    std::string edited = good;
    return edited.replace(at, bytes.size(), bytes);
  };
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"", "no directory at its end"},
      {"hello", "no directory at its end"},
      {with(first + 10, "\x08"), "\"a\" is compressed"},
      {with(first + 8, "\x01"), "\"a\" is encrypted"},
      {with(first + 20, "\x04"), "stored in another size"},
      {with(first + 20, test::number32(9999) + test::number32(9999)),
       "reaches beyond the entries' end"},
      {with(second + 42, test::number32(0)), "\"b\" is not at byte 0"},
      {with(second + 42, test::number32(0xFFFFFF)), "but the file ends at byte"},
      {with(first + 20, test::number32(20) + test::number32(20)),
       "entries \"a\" and \"b\" overlap"},
      {with(first + 28, test::number16(60000)), "cut off or damaged"},
      {with(end + 8, test::number16(9) + test::number16(9)), "cut off or damaged"},
      {with(end + 8, test::number16(1)), "one of several files"},
      {with(end + 12, test::number32(200'000'000)), "MiB allowed"},
      {with(end + 16, test::number32(0xFFFFFFFE)), "its directory should lie at"},
      {with(end + 16, test::number32(0xFFFFFFFF)), "its zip64 directory is missing"},
      {zip_of({{"a", "one"}, {"a", "two"}}), "entry \"a\" is there twice"},
  };
  for (const auto& [bytes, message] : cases) {
    SCOPED_TRACE(message);
    write_text(folder / "bad.zip", bytes);
    const std::string refusal = message_of<UserError>([&] { ZipArchive(folder / "bad.zip"); });
    EXPECT_THAT(refusal, HasSubstr("bad.zip'"));
    EXPECT_THAT(refusal, HasSubstr(message));
    EXPECT_EQ(refusal.find('\n'), std::string::npos);
  }
}

TEST(ZipArchive, RefusesEveryFileThatWasCutOff) {
  for (const bool is_zip64 : {false, true}) {
    const std::string good = zip_of({{"a", "one"}, {"b", "two"}}, {.is_zip64 = is_zip64});
    for (std::size_t size = 0; size < good.size(); ++size)
      EXPECT_FALSE(contents_or_refused(good.substr(0, size))) << size;
  }
}

// A byte that was changed makes no other content: it is refused, or counts for nothing.
TEST(ZipArchive, GivesNoOtherContentForAChangedByte) {
  for (const bool is_zip64 : {false, true}) {
    const std::string good = zip_of({{"a", "one"}, {"b", "two"}}, {.is_zip64 = is_zip64});
    const auto right = contents_or_refused(good);
    ASSERT_TRUE(right);
    int refused = 0;
    int harmless = 0;
    for (std::size_t at = 0; at < good.size(); ++at)
      for (const unsigned change : {0x01U, 0x80U, 0xFFU}) {
        std::string bytes = good;
        bytes[at] = static_cast<char>(static_cast<unsigned char>(bytes[at]) ^ change);
        const auto found = contents_or_refused(bytes);
        if (found) {
          EXPECT_EQ(*found, *right) << "byte " << at << " xor " << change;
        }
        found ? ++harmless : ++refused;
      }
    EXPECT_GT(refused, 100);
    EXPECT_GT(harmless, 20);
  }
}

TEST(ZipArchive, TellsOfAFileThatWasCutOffSince) {
  const TempFolder folder;
  write_text(folder / "a.zip", zip_of(kParts));
  const ZipArchive zip(folder / "a.zip");
  std::filesystem::resize_file(folder / "a.zip", 100);
  EXPECT_THAT(message_of<UserError>([&] { zip.read_all(*zip.find("b/long"), kEnough); }),
              HasSubstr("ended at byte 100"));
}

}  // namespace
}  // namespace halftone::zip_archive_test
