// SPDX-License-Identifier: Apache-2.0
#include "halftone/run/event_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "halftone/core/error.h"
#include "halftone/run/event_record.h"
#include "support/temp_folder.h"

namespace halftone::event_file_test {
namespace {

namespace fs = std::filesystem;
using test::read_text;
using test::TempFolder;
using test::write_text;
using testing::HasSubstr;

// Bit by bit, from the polynomial as the standard writes it: another way than the table's.
std::uint32_t slow_crc32c(const std::string& bytes) {
  const auto mirrored = [](std::uint32_t value, int bits) {
    std::uint32_t result = 0;
    for (int i = 0; i < bits; ++i)
      if ((value >> i) & 1U) result |= std::uint32_t{1} << (bits - 1 - i);
    return result;
  };
  std::uint32_t rest = 0xFFFFFFFF;
  for (const char byte : bytes) {
    rest ^= mirrored(static_cast<unsigned char>(byte), 8) << 24U;
    for (int bit = 0; bit < 8; ++bit)
      rest = (rest & 0x80000000U) != 0 ? (rest << 1U) ^ 0x1EDC6F41U : rest << 1U;
  }
  return ~mirrored(rest, 32);
}

std::uint32_t masked(std::uint32_t sum) { return ((sum >> 15U) | (sum << 17U)) + 0xA282EAD8U; }

template <class Number>
Number number_at(const std::string& bytes, std::size_t at) {
  Number number{};
  EXPECT_LE(at + sizeof(number), bytes.size());
  std::memcpy(&number, bytes.data() + at, sizeof(number));  // x86 is little-endian, as the format
  return number;
}

// The data of the records of a file, with every checksum verified.
std::vector<std::string> records_of(const fs::path& path) {
  const std::string bytes = read_text(path);
  std::vector<std::string> records;
  for (std::size_t at = 0; at < bytes.size();) {
    const auto length = number_at<std::uint64_t>(bytes, at);
    EXPECT_EQ(number_at<std::uint32_t>(bytes, at + 8), masked(slow_crc32c(bytes.substr(at, 8))));
    EXPECT_LE(at + 16 + length, bytes.size());
    if (testing::Test::HasFailure()) return records;
    records.push_back(bytes.substr(at + 12, length));
    EXPECT_EQ(number_at<std::uint32_t>(bytes, at + 12 + length),
              masked(slow_crc32c(records.back())));
    at += 16 + length;
  }
  return records;
}

template <class Number>
std::string bytes_of(Number number) {
  return {reinterpret_cast<const char*>(&number), sizeof(number)};
}

// An event without its wall time, the first field, which must be about now.
std::string without_time(const std::string& event) {
  EXPECT_EQ(event.substr(0, 1), "\x09");
  const double now =
      std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
  EXPECT_NEAR(number_at<double>(event, 1), now, 60);
  return event.substr(9);
}

// A field that holds bytes, by the rules of the wire format; short ones only.
std::string field(int number, const std::string& bytes) {
  EXPECT_LT(bytes.size(), 128U);
  return std::string(1, static_cast<char>(number << 3 | 2)) +
         std::string(1, static_cast<char>(bytes.size())) + bytes;
}

TEST(EventRecord, ChecksumsAreThoseOfTheStandard) {
  // RFC 3720, appendix B.4, and the check value of CRC-32C.
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8A9136AAU);
  EXPECT_EQ(crc32c(std::string(32, '\xFF')), 0x62A8AB43U);
  std::string rising, falling;
  for (int i = 0; i < 32; ++i) {
    rising += static_cast<char>(i);
    falling += static_cast<char>(31 - i);
  }
  EXPECT_EQ(crc32c(rising), 0x46DD794EU);
  EXPECT_EQ(crc32c(falling), 0x113FDB5CU);
  EXPECT_EQ(crc32c("123456789"), 0xE3069283U);
  EXPECT_EQ(crc32c(""), 0U);
}

TEST(EventRecord, FramesTheData) {
  const std::string record = event_record("abc");
  EXPECT_EQ(record.size(), 8U + 4 + 3 + 4);
  EXPECT_EQ(record.substr(0, 8), std::string("\x03\0\0\0\0\0\0\0", 8));
  EXPECT_EQ(record.substr(12, 3), "abc");
  EXPECT_EQ(number_at<std::uint32_t>(record, 8), masked(slow_crc32c(record.substr(0, 8))));
  EXPECT_EQ(number_at<std::uint32_t>(record, 15), masked(slow_crc32c("abc")));
  EXPECT_EQ(event_record("").size(), 16U);
}

TEST(EventFile, BeginsWithItsFormatAndTheStepItGoesOnFrom) {
  const TempFolder folder;
  const EventFile file(folder / "tensorboard", 200);
  const std::vector<std::string> events = records_of(file.path());
  ASSERT_EQ(events.size(), 2U);
  EXPECT_EQ(without_time(events[0]), std::string("\x10\0", 2) + field(3, "brain.Event:2"));
  // Step 201 as a varint: what is at or after it is forgotten. The status is START.
  EXPECT_EQ(without_time(events[1]), "\x10\xC9\x01" + field(7, "\x08\x01"));
}

TEST(EventFile, ScalarsOfAStepAreOneEvent) {
  const TempFolder folder;
  EventFile file(folder.path(), 0);
  file.add_scalars(3, {{"loss", 0.1}, {"lr", INFINITY}});
  const std::string loss = field(1, "loss") + "\x15" + bytes_of(0.1F);
  const std::string lr = field(1, "lr") + "\x15" + bytes_of(std::numeric_limits<float>::infinity());
  EXPECT_EQ(without_time(records_of(file.path()).back()),
            "\x10\x03" + field(5, field(1, loss) + field(1, lr)));
}

TEST(EventFile, ATextIsATensorOfThePluginText) {
  const TempFolder folder;
  EventFile file(folder.path(), 0);
  file.add_text(5, "note", "a *b*");
  const std::string tensor = "\x08\x07" + field(2, "") + field(8, "a *b*");
  const std::string metadata = field(1, field(1, "text"));
  EXPECT_EQ(
      without_time(records_of(file.path()).back()),
      "\x10\x05" + field(5, field(1, field(1, "note") + field(8, tensor) + field(9, metadata))));
}

TEST(EventFile, AHistogramKeepsItsBucketsInFp64) {
  const TempFolder folder;
  EventFile file(folder.path(), 0);
  file.add_histogram(1, "w",
                     {.least = -1,
                      .most = 2,
                      .count = 4,
                      .sum = 3,
                      .sum_of_squares = 6,
                      .ends = {0.5, 2},
                      .counts = {1, 3}});
  std::string histogram;
  int number = 0;
  for (const double value : {-1.0, 2.0, 4.0, 3.0, 6.0})
    histogram += std::string(1, static_cast<char>(++number << 3 | 1)) + bytes_of(value);
  histogram += field(6, bytes_of(0.5) + bytes_of(2.0)) + field(7, bytes_of(1.0) + bytes_of(3.0));
  EXPECT_EQ(without_time(records_of(file.path()).back()),
            "\x10\x01" + field(5, field(1, field(1, "w") + field(5, histogram))));
}

TEST(EventFile, WhatIsNotUtf8IsReplaced) {
  const TempFolder folder;
  EventFile file(folder.path(), 0);
  file.add_scalars(1, {{"a\xFFz", 1.0}});
  file.add_text(1, "b\xFE", "c\xFD");
  const std::vector<std::string> events = records_of(file.path());
  EXPECT_THAT(events[2], HasSubstr("a\xEF\xBF\xBDz"));
  EXPECT_THAT(events[3], HasSubstr("b\xEF\xBF\xBD"));
  EXPECT_THAT(events[3], HasSubstr("c\xEF\xBF\xBD"));
}

TEST(EventFile, EveryEventIsThereBeforeTheCallReturns) {
  const TempFolder folder;
  EventFile file(folder.path(), 0);
  for (std::size_t i = 1; i <= 3; ++i) {
    file.add_scalars(static_cast<std::int64_t>(i), {{"loss", 1.0}});
    EXPECT_EQ(records_of(file.path()).size(), 2 + i);
  }
  file.sync();
}

TEST(EventFile, NewFilesStandBehindOlderOnesWhateverTheClockSays) {
  const TempFolder folder;
  const EventFile first(folder.path(), 0), second(folder.path(), 0);
  write_text(folder / "events.out.tfevents.7777777777.other.1.0", "");
  write_text(folder / "notes.txt", "");
  const EventFile third(folder.path(), 0);
  std::vector<std::string> names;
  for (const EventFile* file : {&first, &second, &third})
    names.push_back(file->path().filename().string());
  EXPECT_TRUE(std::is_sorted(names.begin(), names.end()));
  EXPECT_THAT(names[0],
              testing::MatchesRegex("events\\.out\\.tfevents\\.[0-9]{10}\\..+\\.[0-9]+\\.[0-9]+"));
  EXPECT_THAT(names[2], testing::StartsWith("events.out.tfevents.7777777778."));
}

TEST(EventFile, AFolderThatCannotBeIsTheUsersMistake) {
  const TempFolder folder;
  write_text(folder / "file", "");
  EXPECT_THROW(EventFile(folder / "file/tensorboard", 0), UserError);
  EXPECT_THROW(EventFile(folder / "file", 0), UserError);
}

}  // namespace
}  // namespace halftone::event_file_test
