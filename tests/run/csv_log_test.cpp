// SPDX-License-Identifier: Apache-2.0
#include "halftone/run/csv_log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <sstream>
#include <string>
#include <vector>

#include "halftone/core/error.h"
#include "halftone/core/log.h"
#include "support/temp_folder.h"

namespace halftone::csv_log_test {
namespace {

using test::message_of;
using test::read_text;
using test::TempFolder;
using test::write_text;
using testing::HasSubstr;

TEST(CsvLog, WritesAColumnForEachNameAndALineForEachCall) {
  const TempFolder folder;
  CsvLog log(folder / "metrics.csv", 0);
  log.append(1, {{"loss", 8.5}, {"lr", 1e-5}});
  log.append(2, {{"loss", 7.0}, {"lr", 65536.0}});
  log.append(2, {{"loss", 6.5}});
  log.append(3, {});
  EXPECT_EQ(read_text(folder / "metrics.csv"),
            "step,loss,lr\n"
            "1,8.5,1e-05\n"
            "2,7,65536\n"
            "2,6.5,\n"
            "3,,\n");
}

TEST(CsvLog, ANameThatComesLaterWidensEveryLine) {
  const TempFolder folder;
  CsvLog log(folder / "metrics.csv", 0);
  log.append(1, {{"loss", 4.0}});
  log.append(2, {{"loss", 3.0}});
  log.append(2, {{"val_acc", 0.5}, {"acc", 0.25}});
  log.append(3, {{"loss", 2.0}});
  EXPECT_EQ(read_text(folder / "metrics.csv"),
            "step,loss,acc,val_acc\n"
            "1,4,,\n"
            "2,3,,\n"
            "2,,0.25,0.5\n"
            "3,2,,\n");
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder.path()), {}), 1);
}

TEST(CsvLog, WidensATableThatIsLongerThanABlock) {
  const TempFolder folder;
  CsvLog log(folder / "metrics.csv", 0);
  constexpr int kLines = 20'000;
  std::string expected = "step,a,b\n";
  for (int step = 1; step <= kLines; ++step) {
    log.append(step, {{"a", step * 0.5}});
    std::ostringstream number;
    number << step * 0.5;
    expected += std::to_string(step) + "," + number.str() + ",\n";
  }
  log.append(kLines + 1, {{"b", 1.0}});
  EXPECT_EQ(read_text(folder / "metrics.csv"), expected + std::to_string(kLines + 1) + ",,1\n");
}

TEST(CsvLog, NumbersComeBackBitByBit) {
  using Limits = std::numeric_limits<double>;
  const std::vector<double> numbers{0.1,
                                    -0.0,
                                    1.0 / 3,
                                    Limits::max(),
                                    Limits::min(),
                                    Limits::denorm_min(),
                                    -Limits::lowest(),
                                    9007199254740993.0,
                                    static_cast<double>(0.1F)};
  const TempFolder folder;
  CsvLog log(folder / "metrics.csv", 0);
  for (const double number : numbers) log.append(1, {{"x", number}});
  std::istringstream lines(read_text(folder / "metrics.csv"));
  std::string line;
  std::getline(lines, line);
  for (const double number : numbers) {
    ASSERT_TRUE(std::getline(lines, line));
    EXPECT_EQ(std::bit_cast<std::uint64_t>(std::strtod(line.c_str() + 2, nullptr)),
              std::bit_cast<std::uint64_t>(number))
        << line;
  }
}

TEST(CsvLog, WritesWhatIsNotFinite) {
  const TempFolder folder;
  CsvLog log(folder / "metrics.csv", 0);
  log.append(1, {{"a", NAN}, {"b", INFINITY}, {"c", -INFINITY}, {"d", std::copysign(NAN, -1.0)}});
  EXPECT_EQ(read_text(folder / "metrics.csv"), "step,a,b,c,d\n1,nan,inf,-inf,nan\n");
}

TEST(CsvLog, NamesAreQuotedAndReadBack) {
  const TempFolder folder;
  const auto path = folder / "metrics.csv";
  const std::string header = "step,\"a,b\",\"say \"\"so\"\"\",\"two\nlines\"\n";
  {
    CsvLog log(path, 0);
    log.append(1, {{"a,b", 1.0}, {"say \"so\"", 2.0}, {"two\nlines", 3.0}});
    EXPECT_EQ(read_text(path), header + "1,1,2,3\n");
  }
  CsvLog log(path, 1);
  log.append(2, {{"say \"so\"", 5.0}});
  EXPECT_EQ(read_text(path), header + "1,1,2,3\n2,,5,\n");
}

TEST(CsvLog, ResumeCutsWhatLiesBeyondTheCheckpoint) {
  const TempFolder folder;
  const auto path = folder / "metrics.csv";
  std::string kept;
  {
    CsvLog log(path, 0);
    for (int step = 1; step <= 4; ++step) log.append(step, {{"loss", 1.0 / step}});
    log.append(4, {{"val_loss", 3.0}});
    kept = read_text(path);
    for (int step = 5; step <= 7; ++step) log.append(step, {{"loss", 1.0 / step}});
  }
  CsvLog log(path, 4);
  EXPECT_EQ(read_text(path), kept);
  log.append(5, {{"val_loss", 0.5}});
  EXPECT_EQ(read_text(path), kept + "5,,0.5\n");
}

TEST(CsvLog, ResumeCutsATornLineAtEveryByte) {
  const TempFolder folder;
  const auto path = folder / "metrics.csv";
  std::string header, first, both;
  {
    CsvLog log(path, 0);
    log.append(1, {{"loss", 8.25}, {"lr", 0.5}});
    first = read_text(path);
    log.append(2, {{"loss", 7.25}, {"lr", 0.5}});
    both = read_text(path);
  }
  for (std::size_t length = first.size(); length <= both.size(); ++length) {
    write_text(path, both.substr(0, length));
    const CsvLog log(path, 9);
    EXPECT_EQ(read_text(path), length == both.size() ? both : first) << length;
  }
  for (const char* bad : {"2,1\n", "x,1,1\n", "2.5,1,1\n", ",1,1\n", "\n", "2,1,1,1\n"}) {
    write_text(path, first + bad + "2,1,1\n");
    const CsvLog log(path, 9);
    EXPECT_EQ(read_text(path), first) << bad;
  }
}

TEST(CsvLog, BeginsAnewWithoutAFirstLine) {
  const TempFolder folder;
  const auto path = folder / "metrics.csv";
  std::vector<std::string> said;
  set_log_sink([&](LogLevel, const std::string& message) { said.push_back(message); });
  for (const std::string old : {"", "step,lo", "a,b\n1,2\n", "\"step,loss\n1,2\n"}) {
    write_text(path, old);
    CsvLog log(path, 5);
    log.append(6, {{"loss", 1.0}});
    EXPECT_EQ(read_text(path), "step,loss\n6,1\n") << old;
  }
  set_log_sink({});
  ASSERT_EQ(said.size(), 3U);  // an empty file is nothing to warn of
  EXPECT_THAT(said[0], HasSubstr("the table begins anew after step 5"));
}

TEST(CsvLog, ANewRunStartsAnEmptyFile) {
  const TempFolder folder;
  write_text(folder / "metrics.csv", "step,loss\n1,2\n");
  const CsvLog log(folder / "metrics.csv", 0);
  EXPECT_EQ(read_text(folder / "metrics.csv"), "");
}

TEST(CsvLog, SaysThatItLeavesOutASecondStep) {
  std::vector<std::string> said;
  set_log_sink([&](LogLevel, const std::string& message) { said.push_back(message); });
  const TempFolder folder;
  CsvLog log(folder / "metrics.csv", 0);
  for (int step = 1; step <= 2; ++step) log.append(step, {{"step", 77.0}, {"x", 1.0}});
  set_log_sink({});
  EXPECT_EQ(read_text(folder / "metrics.csv"), "step,x\n1,1\n2,1\n");
  ASSERT_EQ(said.size(), 1U);
  EXPECT_THAT(said[0], HasSubstr("log it under another name"));
}

TEST(CsvLog, ErrorsAreOfTheRightKind) {
  const TempFolder folder;
  EXPECT_THROW(CsvLog(folder / "none/metrics.csv", 0), UserError);
  CsvLog full("/dev/full", 0);
  EXPECT_THAT(message_of<SystemError>([&] {
                full.append(1, {{"loss", 1.0}});
              }),
              HasSubstr("the disk is full"));
}

}  // namespace
}  // namespace halftone::csv_log_test
