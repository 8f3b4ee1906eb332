// SPDX-License-Identifier: Apache-2.0
// The files of tests/golden/make_png_golden.py, which packs them by hand.
#include "halftone/media/png_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <zlib.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "halftone/core/error.h"
#include "halftone/media/picture.h"
#include "support/paths.h"
#include "support/temp_folder.h"

namespace halftone::png_file_test {
namespace {

namespace fs = std::filesystem;
using test::message_of;
using test::read_text;
using test::TempFolder;
using test::write_text;
using testing::AllOf;
using testing::HasSubstr;

fs::path golden(const std::string& name) { return fs::path(test::kGoldenDir) / "png" / name; }

class PngFile : public testing::Test {
 protected:
  fs::path path() const { return folder_ / "a.png"; }
  std::string error_of(const std::string& bytes, std::int64_t max_pixels = 1 << 20) const {
    write_text(path(), bytes);
    return message_of<UserError>([&] { read_png(path(), max_pixels); });
  }
  TempFolder folder_;
};

TEST_F(PngFile, OfEveryKindIsRead) {
  const auto index = nlohmann::json::parse(std::ifstream(golden("pixels.json")));
  ASSERT_EQ(index["files"].size(), 11U);
  for (const auto& [name, entry] : index["files"].items()) {
    const auto values = entry["pixels"].get<std::vector<int>>();
    const torch::Tensor expected =
        torch::tensor(values)
            .to(torch::kByte)
            .reshape({index["height"].get<int>(), index["width"].get<int>(),
                      entry["channels"].get<int>()})
            .permute({2, 0, 1});
    const torch::Tensor picture = read_png(golden(name + ".png"));
    ASSERT_EQ(picture.sizes(), expected.sizes()) << name;
    EXPECT_TRUE(picture.equal(expected)) << name << (picture.to(torch::kInt) - expected);
  }
}

TEST_F(PngFile, IsReadAsItWasWritten) {
  for (const std::int64_t channels : {1, 2, 3, 4}) {
    const torch::Tensor picture = torch::randint(0, 256, {channels, 7, 5}).to(torch::kByte);
    write_png(path(), picture);
    EXPECT_TRUE(read_png(path()).equal(picture)) << channels;
    const std::string bytes = read_text(path());
    write_png(path(), picture.to(torch::kFloat) / 255);
    EXPECT_EQ(read_text(path()), bytes);
  }
  EXPECT_THROW(write_png(path(), torch::zeros({5, 2, 2})), c10::Error);
  EXPECT_THROW(write_png(path(), torch::zeros({2, 2})), c10::Error);
  EXPECT_THROW(write_png(path(), torch::zeros({3, 0, 2})), c10::Error);
  EXPECT_THROW(write_png(folder_ / "none/a.png", torch::zeros({3, 2, 2})), UserError);
}

TEST_F(PngFile, HoldsAGrid) {
  const torch::Tensor batch = torch::rand({5, 3, 4, 4});
  write_png_grid(path(), batch, 3);
  const torch::Tensor grid = read_png(path());
  ASSERT_EQ(grid.sizes(), torch::IntArrayRef({3, 10, 16}));
  EXPECT_TRUE(grid.slice(1, 6).slice(2, 6, 10).equal(bytes_of_picture(batch[4])));
  EXPECT_TRUE(grid.slice(1, 4, 6).eq(255).all().item<bool>());
}

TEST_F(PngFile, ThatIsCutOffIsRefused) {
  const std::string whole = read_text(golden("rgb8_interlaced.png"));
  for (std::size_t bytes = 0; bytes < whole.size(); ++bytes)
    EXPECT_THAT(error_of(whole.substr(0, bytes)),
                AllOf(HasSubstr("'" + path().string() + "' is not a whole PNG file: "),
                      HasSubstr("; fetch it again, or name another")))
        << bytes;
}

TEST_F(PngFile, ThatIsDamagedIsRefusedOrShown) {
  const std::string whole = read_text(golden("palette8_alpha.png"));
  for (std::size_t at = 0; at < whole.size(); ++at) {
    std::string damaged = whole;
    damaged[at] = static_cast<char>(damaged[at] ^ 0x5A);
    write_text(path(), damaged);
    try {
      EXPECT_EQ(read_png(path()).dim(), 3);
    } catch (const UserError& error) {
      EXPECT_THAT(error.what(), HasSubstr(path().string()));
    }
  }
}

std::string with_size(std::string png, std::uint32_t width, std::uint32_t height) {
  const auto put = [&](std::size_t at, std::uint32_t value) {
    for (unsigned i = 0; i < 4; ++i) png[at + i] = static_cast<char>(value >> (24 - 8 * i));
  };
  put(16, width);
  put(20, height);
  std::uint32_t crc = ~0U;
  for (std::size_t at = 12; at < 29; ++at) {
    crc ^= static_cast<unsigned char>(png[at]);
    for (int bit = 0; bit < 8; ++bit) crc = crc >> 1U ^ (0xEDB88320U & ~((crc & 1U) - 1U));
  }
  put(29, ~crc);
  return png;
}

TEST_F(PngFile, OfAHugeSizeIsRefusedBeforeMemoryIsTaken) {
  const std::string whole = read_text(golden("rgb8.png"));
  EXPECT_THAT(error_of(with_size(whole, 900'000, 900'000)),
              AllOf(HasSubstr("cannot read '" + path().string() +
                              "': its header says 900000 x "
                              "900000 pixels, expected at most 1048576 in all")));
  EXPECT_THAT(error_of(with_size(whole, 900'000, 900'000), 1LL << 50),
              HasSubstr("900000 x 900000 pixels, more than it holds (byte "));
  EXPECT_THAT(error_of(with_size(whole, 12, 9)), HasSubstr("is not a whole PNG file"));
  EXPECT_THAT(error_of(whole, 98), HasSubstr("expected at most 98"));
}

std::string big_endian(std::uint32_t value) {
  std::string bytes;
  for (unsigned shift = 24; shift < 32; shift -= 8) bytes += static_cast<char>(value >> shift);
  return bytes;
}

std::string chunk_of(const std::string& named) {
  const auto* const bytes = reinterpret_cast<const Bytef*>(named.data());
  const auto size = static_cast<std::uint32_t>(named.size());
  return big_endian(size - 4) + named +
         big_endian(static_cast<std::uint32_t>(crc32(0, bytes, size)));
}

std::string packed_zeros(std::size_t count) {
  const std::string zeros(count, '\0');
  uLongf size = compressBound(count);
  std::string packed(size, '\0');
  EXPECT_EQ(compress(reinterpret_cast<Bytef*>(packed.data()), &size,
                     reinterpret_cast<const Bytef*>(zeros.data()), count),
            Z_OK);
  return packed.substr(0, size);
}

std::int64_t most_memory() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_maxrss * 1'024;
}

TEST_F(PngFile, IsReadWithoutUnpackingItsTexts) {
  constexpr std::size_t kTextBytes = 7'000'000;  // libpng takes at most 8 MB
  constexpr int kTexts = 100;
  const std::string packed = packed_zeros(kTextBytes);
  std::string texts;
  for (int i = 0; i < kTexts; ++i)
    texts += chunk_of(std::string("zTXta\0\0", 7) + packed) +
             chunk_of(std::string("iCCPa\0\0", 7) + packed) +
             chunk_of(std::string("iTXta\0\1\0\0\0", 10) + packed);
  std::string whole = read_text(golden("palette8_alpha.png"));
  constexpr std::size_t kStart = 33;  // the mark and IHDR
  whole.insert(kStart, texts);
  whole.insert(whole.size() - 12, texts);  // before IEND
  write_text(path(), whole);
  const torch::Tensor expected = read_png(golden("palette8_alpha.png"));
  const std::int64_t before = most_memory();
  EXPECT_TRUE(read_png(path()).equal(expected));
  EXPECT_LT(most_memory() - before, std::int64_t{100} << 20);
}

TEST_F(PngFile, ThatIsNoneIsRefused) {
  EXPECT_THAT(error_of("GIF89a"), HasSubstr("is not a whole PNG file"));
  EXPECT_THAT(message_of<UserError>([&] { read_png(folder_ / "none.png"); }),
              HasSubstr("none.png"));
  EXPECT_THROW(read_png(folder_.path()), UserError);
}

}  // namespace
}  // namespace halftone::png_file_test
