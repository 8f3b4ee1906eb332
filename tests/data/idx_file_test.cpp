// SPDX-License-Identifier: Apache-2.0
#include "halftone/data/idx_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <zlib.h>

#include <bit>
#include <cstring>
#include <functional>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "halftone/core/error.h"
#include "halftone/data/fashion_mnist.h"
#include "halftone/data/gzip_file.h"
#include "support/temp_folder.h"

namespace halftone::idx_file_test {
namespace {

namespace fs = std::filesystem;
using test::message_of;
using test::TempFolder;
using test::write_text;
using testing::AllOf;
using testing::EndsWith;
using testing::HasSubstr;
using testing::StartsWith;

std::string big_endian(std::uint64_t value, int bytes) {
  std::string text;
  for (int i = bytes - 1; i >= 0; --i) text += static_cast<char>(value >> (8 * i) & 0xFFU);
  return text;
}

std::string header(unsigned char dtype, const std::vector<std::uint32_t>& sizes) {
  std::string text = {0, 0, static_cast<char>(dtype), static_cast<char>(sizes.size())};
  for (const std::uint32_t size : sizes) text += big_endian(size, 4);
  return text;
}

std::string gzip(const std::string& text) {
  z_stream stream{};
  EXPECT_EQ(deflateInit2(&stream, 6, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY), Z_OK);
  std::string packed(deflateBound(&stream, text.size()) + 32, '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  stream.avail_in = static_cast<uInt>(text.size());
  stream.next_out = reinterpret_cast<Bytef*>(packed.data());
  stream.avail_out = static_cast<uInt>(packed.size());
  EXPECT_EQ(deflate(&stream, Z_FINISH), Z_STREAM_END);
  const std::size_t size = stream.total_out;
  deflateEnd(&stream);
  return packed.substr(0, size);
}

class IdxFile : public testing::Test {
 protected:
  torch::Tensor read(const std::string& bytes) const {
    write_text(path(), bytes);
    return read_idx(path());
  }
  std::string error_of(const std::string& bytes) const {
    return message_of<UserError>([&] { read(bytes); });
  }
  fs::path path() const { return folder_ / "array"; }

  TempFolder folder_;
  // 2 x 3 of int16 with both signs.
  const std::string whole_ =
      header(0x0B, {2, 3}) + std::string("\0\1\xFF\xFF\x7F\xFF\x80\0\1\0\0\0", 12);
  const torch::Tensor array_ = torch::tensor({1, -1, 32767, -32768, 256, 0}).to(torch::kShort);
};

TEST_F(IdxFile, ReadsEveryDtype) {
  struct Case {
    unsigned char code;
    torch::ScalarType dtype;
    std::string bytes;
    double value;
  };
  const std::vector<Case> cases = {
      {0x08, torch::kByte, "\xFE", 254},
      {0x09, torch::kChar, "\xFE", -2},
      {0x0B, torch::kShort, big_endian(0xFEDC, 2), -292},
      {0x0C, torch::kInt, big_endian(0xFEDCBA98, 4), -19088744},
      {0x0D, torch::kFloat, big_endian(std::bit_cast<std::uint32_t>(-0.1F), 4), -0.1F},
      {0x0E, torch::kDouble, big_endian(std::bit_cast<std::uint64_t>(-0.1), 8), -0.1},
  };
  for (const Case& one : cases) {
    const torch::Tensor array = read(header(one.code, {1}) + one.bytes);
    EXPECT_EQ(array.scalar_type(), one.dtype);
    EXPECT_EQ(array.sizes(), at::IntArrayRef({1}));
    EXPECT_EQ(array.item<double>(), one.value);
  }
}

TEST_F(IdxFile, ReadsEveryShape) {
  EXPECT_TRUE(read(whole_).equal(array_.view({2, 3})));
  EXPECT_EQ(read(header(8, {}) + "\7").item<int>(), 7);  // no dimension: one element
  EXPECT_EQ(read(header(8, {0})).sizes(), at::IntArrayRef({0}));
  EXPECT_EQ(read(header(0x0E, {3, 0, 5})).sizes(), at::IntArrayRef({3, 0, 5}));
  EXPECT_EQ(read(header(8, std::vector<std::uint32_t>(64, 1)) + "\7").dim(), 64);
}

TEST_F(IdxFile, UnpacksGzip) {
  EXPECT_TRUE(read(gzip(whole_)).equal(array_.view({2, 3})));
  // Members one after another are one file, wherever they are cut.
  for (std::size_t cut = 0; cut <= whole_.size(); ++cut)
    EXPECT_TRUE(
        read(gzip(whole_.substr(0, cut)) + gzip(whole_.substr(cut))).equal(array_.view({2, 3})));
  // More than the reader's own buffer, hardly compressible.
  std::mt19937 random(1);
  std::string noise(1'000'000, '\0');
  for (char& byte : noise) byte = static_cast<char>(random());
  const torch::Tensor array = read(gzip(header(8, {1000, 1000}) + noise));
  EXPECT_EQ(std::memcmp(array.data_ptr(), noise.data(), noise.size()), 0);
}

TEST_F(IdxFile, SaysWhatIsWrong) {
  EXPECT_THAT(error_of(whole_.substr(0, 3)), HasSubstr("it ends at byte 3, within its first 4"));
  EXPECT_THAT(error_of(whole_.substr(0, 7)), HasSubstr("it ends at byte 7, within the sizes"));
  for (const std::string& cut : {whole_.substr(0, 20), gzip(whole_.substr(0, 20))})
    EXPECT_THAT(error_of(cut), HasSubstr("it ends at byte 20, within the elements"));
  EXPECT_THAT(error_of(whole_ + "x"), HasSubstr("more bytes follow the last element, at byte 24"));
  EXPECT_THAT(error_of(gzip(whole_ + "x")), HasSubstr("more bytes follow the last element"));
  EXPECT_THAT(error_of("\x89PNG and more"), HasSubstr("two zero bytes, got 89 50"));
  EXPECT_THAT(error_of(header(0x0A, {1}) + "x"), HasSubstr("at byte 2, got 0a"));
  EXPECT_THAT(error_of(header(8, std::vector<std::uint32_t>(65, 1)) + "x"),
              HasSubstr("at most 64 dimensions at byte 3, got 65"));
  EXPECT_THAT(error_of(""),
              AllOf(StartsWith("'" + path().string() + "' is not a complete IDX file"),
                    EndsWith("; fetch it again, or name another")));
  EXPECT_THAT(message_of<UserError>([&] { read_idx(folder_ / "none"); }),
              AllOf(HasSubstr("none"), HasSubstr("No such file")));
  EXPECT_THAT(message_of<UserError>([&] { read_idx(folder_.path()); }), HasSubstr("a folder"));
}

TEST_F(IdxFile, SaysWhereGzipIsDamaged) {
  const std::string packed = gzip(whole_);
  EXPECT_THAT(error_of(packed.substr(0, packed.size() - 5)),
              AllOf(HasSubstr("is not a complete gzip file: it is cut off at byte"),
                    EndsWith("; fetch it again")));
  std::string damaged = packed;
  damaged[damaged.size() - 8] ^= 1;  // of the checksum
  EXPECT_THAT(error_of(damaged), HasSubstr("incorrect data check at byte"));
  damaged = packed;
  damaged.back() ^= 1;  // of the length
  EXPECT_THAT(error_of(damaged), HasSubstr("incorrect length check at byte"));
  EXPECT_THAT(error_of(packed + "rest"),
              HasSubstr("incorrect header check at byte " + std::to_string(packed.size() + 2)));
}

TEST_F(IdxFile, TakesNoMemoryForSizesThatCannotBe) {
  const std::uint32_t most = std::numeric_limits<std::uint32_t>::max();
  const std::vector<std::vector<std::uint32_t>> hostile = {{most},
                                                           {most, most},
                                                           {most, most, most},
                                                           {most, most, most, 0},
                                                           {0, most, most, most},
                                                           {1U << 31U, 1U << 31U, 4}};
  for (const auto& sizes : hostile)
    for (const unsigned char dtype : {0x08, 0x0E})
      for (const char* tail : {"", "x"}) {
        const std::string bytes = header(dtype, sizes) + tail;
        EXPECT_THAT(error_of(bytes), HasSubstr("more than a file of this size holds"));
        EXPECT_THAT(error_of(gzip(bytes)), HasSubstr("more than a file of this size holds"));
      }
}

TEST_F(IdxFile, RefusesWhatUnpacksToMoreThanIsWanted) {
  write_text(path(), gzip(header(8, {1000, 1000}) + std::string(1'000'000, '\0')));
  EXPECT_LT(fs::file_size(path()), 2000U);
  EXPECT_EQ(read_idx(path(), 1'000'000).numel(), 1'000'000);
  EXPECT_THAT(message_of<UserError>([&] { read_idx(path(), 999'999); }),
              HasSubstr("its header says 1000 x 1000 elements, 977 KiB; expected at most 977 KiB"));
}

TEST_F(IdxFile, UnpackedFileKnowsWhereItIs) {
  write_text(path(), gzip("12345678"));
  GzipFile file(path());
  std::string text(5, '\0');
  EXPECT_EQ(file.read(text.data(), 5), 5U);
  EXPECT_EQ(text, "12345");
  EXPECT_EQ(file.position(), 5U);
  EXPECT_EQ(file.read(text.data(), 5), 3U);
  EXPECT_EQ(file.read(text.data(), 5), 0U);
  EXPECT_EQ(file.position(), 8U);
}

// What survives must be an array of the size that its bytes can have; every error names the file.
class IdxFuzz : public IdxFile {
 protected:
  bool survives(const std::string& bytes, const std::function<void(const torch::Tensor&)>& check) {
    try {
      check(read(bytes));
      return true;
    } catch (const UserError& error) {
      EXPECT_THAT(error.what(), HasSubstr(path().string()));
      return false;
    }
  }
};

TEST_F(IdxFuzz, SurvivesMutations) {
  std::mt19937 random(1);
  int loaded = 0;
  for (int i = 0; i < 4000; ++i) {
    std::string bytes = whole_;
    for (auto n = 1 + random() % 3; n > 0; --n) {
      const std::size_t at = random() % bytes.size();
      if (random() % 4 == 0)
        bytes.erase(at, 1 + random() % 4);
      else
        bytes[at] = static_cast<char>(random() % 2 == 0 ? random() : random() % 16);
      if (bytes.empty()) bytes = "x";
    }
    loaded += survives(bytes, [&](const torch::Tensor& array) {
      EXPECT_EQ(array.nbytes() + 4 + 4 * static_cast<std::size_t>(array.dim()), bytes.size());
    });
  }
  EXPECT_GT(loaded, 10);
  EXPECT_LT(loaded, 3990);
}

TEST_F(IdxFuzz, AFlippedBitInGzipIsNeverOtherData) {
  const std::string packed = gzip(whole_);
  int loaded = 0;
  for (std::size_t bit = 0; bit < 8 * packed.size(); ++bit) {
    std::string bytes = packed;
    bytes[bit / 8] = static_cast<char>(bytes[bit / 8] ^ 1 << bit % 8);
    loaded += survives(bytes, [&](const torch::Tensor& array) {
      EXPECT_TRUE(array.equal(array_.view({2, 3}))) << bit;
    });
  }
  EXPECT_GT(loaded, 0);    // the time and the system in gzip's header do not matter
  EXPECT_LE(loaded, 100);  // of its 10 bytes
}

TEST_F(IdxFuzz, SurvivesTruncation) {
  for (const std::string& bytes : {whole_, gzip(whole_)})
    for (std::size_t size = 0; size < bytes.size(); ++size)
      EXPECT_FALSE(survives(bytes.substr(0, size), [](const torch::Tensor&) {})) << size;
}

class ReadFashionMnist : public testing::Test {
 protected:
  ReadFashionMnist() {
    for (const auto& [part, count] : {std::pair{"train", 3U}, std::pair{"t10k", 2U}}) {
      std::string images = header(8, {count, 28, 28});
      for (unsigned i = 0; i < count * 28 * 28; ++i) images += static_cast<char>(i % 256);
      write_text(file(part, "images-idx3"), gzip(images));
      write_text(file(part, "labels-idx1"),
                 gzip(header(8, {count}) + std::string("\x9\0\5", count)));
    }
  }
  fs::path file(const std::string& part, const std::string& kind) const {
    return folder_ / (part + "-" + kind + "-ubyte.gz");
  }
  std::string error() const {
    return message_of<UserError>([&] { read_fashion_mnist(folder_.path()); });
  }

  TempFolder folder_;
};

TEST_F(ReadFashionMnist, GivesImagesFrom0To1AndLabels) {
  const FashionMnist data = read_fashion_mnist(folder_.path());
  const torch::Tensor expected = torch::arange(3 * 28 * 28).remainder(256).to(torch::kFloat) / 255;
  EXPECT_TRUE(data.train_images.equal(expected.view({3, 1, 28, 28})));
  EXPECT_TRUE(data.train_labels.equal(torch::tensor({9, 0, 5})));
  EXPECT_TRUE(data.test_images.equal(data.train_images.slice(0, 0, 2)));
  EXPECT_TRUE(data.test_labels.equal(torch::tensor({9, 0})));
}

TEST_F(ReadFashionMnist, TakesUnpackedFilesToo) {
  fs::remove(file("train", "labels-idx1"));
  write_text(folder_ / "train-labels-idx1-ubyte", header(8, {3}) + "\1\2\3");
  EXPECT_TRUE(read_fashion_mnist(folder_.path()).train_labels.equal(torch::tensor({1, 2, 3})));
}

TEST_F(ReadFashionMnist, SaysWhatDoesNotFit) {
  write_text(file("t10k", "labels-idx1"), header(8, {2}) + "\1\xA");
  EXPECT_THAT(error(), HasSubstr("t10k-labels-idx1-ubyte.gz' has the label 10, expected 0 to 9"));
  write_text(file("t10k", "labels-idx1"), header(8, {3}) + "\1\2\3");
  EXPECT_THAT(error(), HasSubstr("t10k-labels-idx1-ubyte.gz' has 3 labels for 2 images"));
  write_text(file("t10k", "images-idx3"), header(8, {2, 2}) + "1234");
  EXPECT_THAT(error(), HasSubstr("expected uint8 of shape (N, 28, 28), got Byte of (2, 2)"));
  write_text(file("train", "labels-idx1"), header(0x0B, {1}) + std::string(2, '\0'));
  EXPECT_THAT(error(), HasSubstr("expected uint8 of shape (N), got Short of (1)"));
  write_text(file("train", "images-idx3"), header(8, {0, 28, 28}));
  EXPECT_THAT(error(), HasSubstr("got Byte of (0, 28, 28)"));
  fs::remove(file("train", "images-idx3"));
  EXPECT_THAT(error(), AllOf(HasSubstr("has no train-images-idx3-ubyte.gz"),
                             HasSubstr("halftone data fetch dataset-fashion-mnist")));
}

}  // namespace
}  // namespace halftone::idx_file_test
