// SPDX-License-Identifier: Apache-2.0
#include "halftone/data/npy_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "halftone/core/error.h"
#include "halftone/data/record_file.h"
#include "support/temp_folder.h"

namespace halftone::npy_file_test {
namespace {

using test::message_of;
using test::TempFolder;
using test::write_text;
using testing::AllOf;
using testing::EndsWith;
using testing::HasSubstr;
using testing::StartsWith;

std::string little_endian(std::uint64_t value, int bytes) {
  std::string text;
  for (int i = 0; i < bytes; ++i) text += static_cast<char>(value >> (8 * i) & 0xFFU);
  return text;
}

/// As numpy.save writes it: spaces, then a line break, up to a multiple of 64 bytes.
std::string npy(std::string dictionary, const std::string& elements, int version = 1) {
  const std::size_t start = version == 1 ? 10 : 12;
  while ((start + dictionary.size() + 1) % 64 != 0) dictionary += ' ';
  dictionary += '\n';
  return "\x93NUMPY" + std::string({static_cast<char>(version), '\0'}) +
         little_endian(dictionary.size(), version == 1 ? 2 : 4) + dictionary + elements;
}

std::string dictionary(const std::string& descr, const std::string& shape,
                       const std::string& fortran_order = "False") {
  return "{'descr': '" + descr + "', 'fortran_order': " + fortran_order + ", 'shape': " + shape +
         ", }";
}

class NpyFile : public testing::Test {
 protected:
  torch::Tensor read(const std::string& bytes) const {
    write_text(path(), bytes);
    return read_npy(path());
  }
  std::string error_of(const std::string& bytes) const {
    return message_of<UserError>([&] { read(bytes); });
  }
  std::filesystem::path path() const { return folder_ / "array.npy"; }

  TempFolder folder_;
  const std::string elements_ = std::string("\1\0\xFF\xFF\xFF\x7F\0\x80\0\1\0\0", 12);
  const std::string whole_ = npy(dictionary("<i2", "(2, 3)"), elements_);
  const torch::Tensor array_ = torch::tensor({{1, -1, 32767}, {-32768, 256, 0}}).to(torch::kShort);
};

TEST_F(NpyFile, ReadsEveryDtype) {
  struct Case {
    std::string descr;
    torch::ScalarType dtype;
    std::string bytes;
    double value;
  };
  const std::vector<Case> cases = {
      {"<f2", torch::kHalf, little_endian(0xC100, 2), -2.5},
      {"<f4", torch::kFloat, little_endian(std::bit_cast<std::uint32_t>(-0.1F), 4), -0.1F},
      {"<f8", torch::kDouble, little_endian(std::bit_cast<std::uint64_t>(-0.1), 8), -0.1},
      {"|i1", torch::kChar, "\xFE", -2},
      {"|u1", torch::kByte, "\xFE", 254},
      {"<i2", torch::kShort, little_endian(0xFEDC, 2), -292},
      {"<i4", torch::kInt, little_endian(0xFEDCBA98, 4), -19088744},
      {"<i8", torch::kLong, little_endian(~std::uint64_t{6}, 8), -7},
      {"|b1", torch::kBool, "\2", 1},
  };
  for (const Case& one : cases)
    for (const int version : {1, 2, 3}) {
      const torch::Tensor array = read(npy(dictionary(one.descr, "(1,)"), one.bytes, version));
      EXPECT_EQ(array.scalar_type(), one.dtype);
      EXPECT_EQ(array.sizes(), at::IntArrayRef({1}));
      EXPECT_EQ(array.item<double>(), one.value) << one.descr;
    }
}

TEST_F(NpyFile, ReadsEveryShape) {
  EXPECT_TRUE(read(whole_).equal(array_));
  EXPECT_EQ(read(npy(dictionary("|u1", "()"), "\7")).item<int>(), 7);
  EXPECT_EQ(read(npy(dictionary("<f8", "(3, 0, 5)"), "")).sizes(), at::IntArrayRef({3, 0, 5}));
  // The order of one row is that of one column.
  EXPECT_EQ(read(npy(dictionary("|u1", "(1, 3)", "True"), "abc")).sizes(), at::IntArrayRef({1, 3}));
}

TEST_F(NpyFile, ReadsEveryWayToWriteTheDictionary) {
  for (const char* text : {"{'shape': (2, 3), 'fortran_order': False, 'descr': '<i2'}",
                           "{\"descr\":\"<i2\",\"fortran_order\":False,\"shape\":(2,3,)}",
                           "  { 'descr' : '<i2' , 'fortran_order' : False , 'shape' : ( 2 , 3 ) }"})
    EXPECT_TRUE(read(npy(text, elements_)).equal(array_)) << text;
}

TEST_F(NpyFile, GivesItsRowsAsRecords) {
  write_text(path(), whole_);
  const RecordFile rows = RecordFile::npy(path());
  EXPECT_EQ(rows.size(), 2);
  EXPECT_EQ(rows.layout().shape, std::vector<std::int64_t>{3});
  for (std::int64_t i = 0; i < 2; ++i) EXPECT_TRUE(rows.get(i).equal(array_[i]));
  write_text(path(), npy(dictionary("<i2", "(6,)"), elements_));
  EXPECT_EQ(RecordFile::npy(path()).get(3).item<int>(), -32768);
  for (const char* shape : {"()", "(0, 3)", "(3, 0)"}) {
    write_text(path(), npy(dictionary("|u1", shape), shape[1] == ')' ? "x" : ""));
    EXPECT_THAT(message_of<UserError>([&] { RecordFile::npy(path()); }),
                AllOf(HasSubstr(path().string()), HasSubstr("expected an array (N, ...)")));
  }
}

TEST_F(NpyFile, NamesTheRemedyForWhatItDoesNotTake) {
  const auto error = [&](const std::string& text) { return error_of(npy(text, elements_)); };
  EXPECT_THAT(
      error(dictionary("<i2", "(2, 3)", "True")),
      AllOf(StartsWith("'" + path().string() + "' is in Fortran order"),
            EndsWith("write it again with numpy.save(PATH, numpy.ascontiguousarray(array))")));
  EXPECT_THAT(error(dictionary(">i2", "(2, 3)")),
              AllOf(HasSubstr("is big endian ('>i2')"), HasSubstr("newbyteorder('<')")));
  EXPECT_THAT(error(dictionary("|O", "(2, 3)")), HasSubstr("holds Python objects"));
  for (const char* descr : {"<u2", "<c8", "<U3", "|V2", "<M8[ns]", "", "<", "=f4"})
    EXPECT_THAT(error(dictionary(descr, "(2, 3)")),
                AllOf(HasSubstr(std::string("has the dtype '") + descr + "'"),
                      HasSubstr("expected one of <f2"), HasSubstr("astype")));
  EXPECT_THAT(error("{'descr': [('x', '<f4')], 'fortran_order': False, 'shape': (2,), }"),
              HasSubstr("has several fields"));
}

TEST_F(NpyFile, SaysWhereItIsNotWhole) {
  EXPECT_THAT(error_of(whole_ + "x"), HasSubstr("expected 12 bytes for the shape (2, 3), got 13"));
  EXPECT_THAT(error_of(whole_.substr(0, whole_.size() - 1)), HasSubstr("got 11 at byte 128"));
  EXPECT_THAT(error_of("PK\3\4"), HasSubstr("expected 93 'NUMPY' at byte 0"));
  EXPECT_THAT(error_of(""), HasSubstr("is not a whole .npy file"));
  EXPECT_THAT(error_of(npy(dictionary("<i2", "(2, 3)"), elements_, 4)),
              HasSubstr("expected version 1.0, 2.0 or 3.0, got 4.0 at byte 6"));
  const auto error = [&](const std::string& text) { return error_of(npy(text, elements_)); };
  EXPECT_THAT(error(dictionary("<i2", "(2, -3)")), HasSubstr("expected a size from 0 on"));
  EXPECT_THAT(error(dictionary("<i2", "(99999999999999999999,)")), HasSubstr("a size from 0 on"));
  EXPECT_THAT(error(dictionary("<i2", "(4611686018427387904, 4, 0)")), HasSubstr("far more bytes"));
  EXPECT_THAT(error(dictionary("<i2", "(2, 3)", "None")), HasSubstr("expected True or False"));
  EXPECT_THAT(error("{'descr': '<i2', 'shape': (2, 3)}"), HasSubstr("expected 'descr', "));
  EXPECT_THAT(error("{'descr': '<i2', 'descr': '<i2'}"), HasSubstr("once, got 'descr'"));
  EXPECT_THAT(error("{'color': 1}"), HasSubstr("got 'color'"));
  EXPECT_THAT(error(dictionary("<i2", "(2, 3)") + "{"), HasSubstr("nothing behind the header's }"));
  std::string ones = "(";
  for (int i = 0; i < 65; ++i) ones += "1, ";
  EXPECT_THAT(error(dictionary("<i2", ones + ")")), HasSubstr("at most 64 dimensions"));
  EXPECT_THAT(message_of<UserError>([&] { read_npy(folder_ / "none.npy"); }),
              HasSubstr("none.npy"));
}

// What survives is an array of the size that its bytes can have; every error names the file.
bool survives(const std::filesystem::path& path, const std::string& bytes) {
  write_text(path, bytes);
  try {
    EXPECT_LE(read_npy(path).nbytes(), bytes.size());
    return true;
  } catch (const UserError& error) {
    EXPECT_THAT(error.what(), HasSubstr(path.string()));
    return false;
  }
}

TEST_F(NpyFile, SurvivesTruncation) {
  for (const int version : {1, 2}) {
    const std::string whole = npy(dictionary("<i2", "(2, 3)"), elements_, version);
    for (std::size_t size = 0; size < whole.size(); ++size)
      EXPECT_FALSE(survives(path(), whole.substr(0, size))) << size;
    EXPECT_TRUE(survives(path(), whole));
  }
}

TEST_F(NpyFile, SurvivesMutations) {
  std::mt19937 random(1);
  const std::string letters = "0123456789(){}[],:'\" <>|fiubTrueFalse\n";
  int loaded = 0;
  for (int i = 0; i < 4000; ++i) {
    std::string bytes = whole_;
    for (auto n = 1 + random() % 3; n > 0; --n) {
      const std::size_t at = random() % 80;  // the header and a little of its padding
      if (random() % 4 == 0)
        bytes.erase(at, 1 + random() % 4);
      else
        bytes[at] =
            random() % 2 == 0 ? static_cast<char>(random()) : letters[random() % letters.size()];
    }
    loaded += survives(path(), bytes);
  }
  EXPECT_GT(loaded, 10);
  EXPECT_LT(loaded, 3990);
}

}  // namespace
}  // namespace halftone::npy_file_test
