// SPDX-License-Identifier: Apache-2.0
#include "halftone/data/record_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "halftone/core/error.h"
#include "support/temp_folder.h"

namespace halftone::record_file_test {
namespace {

using test::message_of;
using test::TempFolder;
using test::write_text;
using testing::AllOf;
using testing::HasSubstr;

class Records : public testing::Test {
 protected:
  std::filesystem::path path() const { return folder_ / "records"; }
  void write(const torch::Tensor& tensor) const {
    const torch::Tensor plain = tensor.contiguous();
    write_text(path(), {static_cast<const char*>(plain.const_data_ptr()), plain.nbytes()});
  }
  std::string error_of(const RecordLayout& layout) const {
    return message_of<UserError>([&] { RecordFile(path(), layout); });
  }
  TempFolder folder_;
};

TEST_F(Records, AreReadInEveryDtypeAndShape) {
  for (const auto dtype : {torch::kFloat, torch::kHalf, torch::kBFloat16, torch::kDouble,
                           torch::kByte, torch::kShort, torch::kLong, torch::kBool})
    for (const std::vector<std::int64_t>& shape :
         {std::vector<std::int64_t>{}, std::vector<std::int64_t>{3}, {2, 1, 5}}) {
      std::vector<std::int64_t> sizes = shape;
      sizes.insert(sizes.begin(), 7);
      const torch::Tensor all = torch::randint(0, 2, sizes).to(dtype);
      write(all);
      const RecordFile records(path(), {dtype, shape});
      ASSERT_EQ(records.size(), 7);
      for (std::int64_t i = 0; i < 7; ++i) {
        EXPECT_EQ(records.get(i).scalar_type(), dtype);
        EXPECT_TRUE(records.get(i).equal(all[i])) << dtype;
      }
    }
}

TEST_F(Records, AreTheCallersOwn) {
  write(torch::ones({2, 3}));
  const RecordFile records(path(), {torch::kFloat, {3}});
  records.get(1).zero_();
  EXPECT_TRUE(records.get(1).equal(torch::ones({3})));
  EXPECT_THROW(records.get(2), c10::Error);
  EXPECT_THROW(records.get(-1), c10::Error);
}

TEST_F(Records, OtherBytesOfABoolAreTrue) {
  write_text(path(), std::string("\0\1\2\xFF", 4));
  const torch::Tensor truth = RecordFile(path(), {torch::kBool, {4}}).get(0);
  EXPECT_TRUE(truth.to(torch::kByte).equal(torch::tensor({0, 1, 1, 1}, torch::kByte)));
}

TEST_F(Records, OfACopyAndADeletedFileAreReadOn) {
  write(torch::arange(6.F));
  std::vector<RecordFile> records;
  {
    const RecordFile first(path(), {torch::kFloat, {2}});
    records.push_back(first);
  }
  std::filesystem::remove(path());
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i)
    threads.emplace_back([&] { EXPECT_TRUE(records[0].get(2).equal(torch::tensor({4.F, 5.F}))); });
  for (std::thread& thread : threads) thread.join();
}

TEST_F(Records, OfPartsAreRefused) {
  write_text(path(), std::string(25, 'x'));
  EXPECT_THAT(error_of({torch::kFloat, {2, 3}}),
              AllOf(HasSubstr("'" + path().string() + "' has 25 bytes"),
                    HasSubstr("records of 24 bytes each, Float (2, 3); 1 bytes are left over")));
  EXPECT_THAT(error_of({torch::kFloat, {7}}), HasSubstr("25 bytes are left over"));
  write_text(path(), "");
  EXPECT_THAT(error_of({torch::kByte, {}}), HasSubstr("has 0 bytes, expected one or more"));
  EXPECT_THAT(message_of<UserError>([&] { RecordFile(folder_ / "none", {}); }), HasSubstr("none"));
  EXPECT_THROW(RecordFile(path(), {torch::kByte, {0}}), c10::Error);
  EXPECT_THROW(RecordFile(path(), {torch::kByte, {-1}}), c10::Error);
  EXPECT_THROW(RecordFile(path(), {torch::kLong, {1LL << 62, 4}}), c10::Error);
}

TEST_F(Records, HaveAFingerprintOfWhatTheyHold) {
  const auto fingerprint = [&](const torch::Tensor& tensor, std::int64_t width = 2) {
    write(tensor);
    return RecordFile(path(), {torch::kFloat, {width}}).fingerprint();
  };
  const torch::Tensor all = torch::arange(12.F);
  const std::string before = fingerprint(all);
  EXPECT_EQ(fingerprint(all), before);
  EXPECT_NE(fingerprint(all, 3), before);
  EXPECT_NE(fingerprint(all.slice(0, 0, 10)), before);
  torch::Tensor changed = all.clone();
  changed[11] = -1;
  EXPECT_NE(fingerprint(changed), before);
}

}  // namespace
}  // namespace halftone::record_file_test
