// SPDX-License-Identifier: Apache-2.0
// WAV files that the test packs by hand.
#include "halftone/media/wav_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numbers>
#include <string>

#include "halftone/core/error.h"
#include "support/temp_folder.h"

namespace halftone::wav_file_test {
namespace {

namespace fs = std::filesystem;
using test::message_of;
using test::read_text;
using test::TempFolder;
using test::write_text;
using testing::AllOf;
using testing::HasSubstr;

std::string little_endian(std::uint64_t value, int bytes) {
  std::string text;
  for (int i = 0; i < bytes; ++i) text += static_cast<char>(value >> (8 * i) & 0xFFU);
  return text;
}

std::string chunk(const std::string& name, const std::string& content) {
  return name + little_endian(content.size(), 4) + content + std::string(content.size() % 2, '\0');
}

struct Format {
  int coding = 1;  // PCM
  int channels = 1;
  std::uint32_t rate = 16'000;
  int bits = 16;
};

std::string wav(const Format& format, const std::string& data, const std::string& between = "") {
  const int frame = format.channels * format.bits / 8;
  const std::string header = little_endian(format.coding, 2) + little_endian(format.channels, 2) +
                             little_endian(format.rate, 4) +
                             little_endian(std::uint64_t{format.rate} * frame, 4) +
                             little_endian(frame, 2) + little_endian(format.bits, 2);
  return chunk("RIFF", "WAVE" + chunk("fmt ", header) + between + chunk("data", data));
}

class WavFile : public testing::Test {
 protected:
  fs::path path() const { return folder_ / "a.wav"; }
  Sound read(const std::string& bytes, const WavOptions& options = {}) const {
    write_text(path(), bytes);
    return read_wav(path(), options);
  }
  std::string error_of(const std::string& bytes, const WavOptions& options = {}) const {
    return message_of<UserError>([&] { read(bytes, options); });
  }
  TempFolder folder_;
};

TEST_F(WavFile, OfEachCodingIsRead) {
  const auto expect = [&](const Format& format, const std::string& data,
                          const std::vector<float>& samples) {
    const Sound sound = read(wav(format, data));
    EXPECT_EQ(sound.rate, 16'000);
    EXPECT_TRUE(sound.samples.equal(torch::tensor(samples))) << sound.samples;
  };
  expect({.bits = 8}, "\x80\xC0" + std::string(1, '\0'), {0, 0.5, -1});
  expect({.bits = 16}, little_endian(0x4000, 2) + little_endian(0x8000, 2), {0.5, -1});
  expect({.bits = 24}, little_endian(0x400000, 3) + little_endian(0xE00000, 3), {0.5, -0.25});
  expect({.bits = 32}, little_endian(0xC0000000, 4), {-0.5});
  expect({.coding = 3, .bits = 32}, little_endian(std::bit_cast<std::uint32_t>(0.1F), 4), {0.1F});
  expect({.coding = 3, .bits = 64}, little_endian(std::bit_cast<std::uint64_t>(-0.25), 8), {-0.25});
  expect({.coding = 7, .bits = 8}, "\xFF\x80", {0, 32124.F / 32768});  // mu-law, ITU-T G.711
}

TEST_F(WavFile, IsMixedToOneChannel) {
  const std::string data = little_endian(0x4000, 2) + little_endian(0x2000, 2) +
                           little_endian(0, 2) + little_endian(0x8000, 2);
  const std::string bytes = wav({.channels = 2}, data, chunk("LIST", "odd"));
  EXPECT_TRUE(read(bytes).samples.equal(torch::tensor({0.375F, -0.5F})));
  EXPECT_TRUE(
      read(bytes, {.mono = false}).samples.equal(torch::tensor({{0.5F, 0.F}, {0.25F, -1.F}})));
}

TEST_F(WavFile, IsReadInPart) {
  std::string data;
  for (int i = 0; i < 10; ++i) data += little_endian(i * 1024, 2);
  const torch::Tensor all = torch::arange(10.F) / 32;
  EXPECT_TRUE(read(wav({}, data), {.first = 4, .frames = 3}).samples.equal(all.slice(0, 4, 7)));
  EXPECT_TRUE(read(wav({}, data), {.first = 8}).samples.equal(all.slice(0, 8)));
  EXPECT_THAT(error_of(wav({}, data), {.first = 8, .frames = 3}),
              HasSubstr("expected 3 frames from frame 8 on, got 10 in all"));
  EXPECT_THAT(error_of(wav({}, data), {.first = 10}), HasSubstr("got 10 in all"));
  EXPECT_THAT(error_of(wav({}, data), {.max_frames = 9}), HasSubstr("at most 9 frames, got 10"));
}

torch::Tensor sine(double frequency, std::int64_t rate, std::int64_t count) {
  return torch::sin(torch::arange(count, torch::kDouble)
                        .mul(2 * std::numbers::pi * frequency / static_cast<double>(rate)))
      .mul(0.5)
      .to(torch::kFloat);
}

TEST_F(WavFile, IsResampled) {
  write_wav(path(), {sine(440, 8'000, 4'000), 8'000});
  const Sound sound = read_wav(path());
  EXPECT_EQ(sound.rate, 16'000);
  const torch::Tensor expected = sine(440, 16'000, 8'000);
  ASSERT_EQ(sound.samples.sizes(), expected.sizes());
  const auto inner = [](const torch::Tensor& all) { return all.slice(0, 500, 7'500); };
  EXPECT_LT((inner(sound.samples) - inner(expected)).abs().max().item<double>(), 2e-4);
  const Sound down = resampled_sound({sine(6'000, 22'050, 22'050), 22'050}, 8'000);
  ASSERT_EQ(down.samples.size(0), 8'000);
  // What 8 kHz cannot have is taken out, not folded.
  EXPECT_LT(down.samples.slice(0, 500, 7'500).abs().max().item<double>(), 1e-3);
  EXPECT_EQ(resampled_sound({torch::zeros({2, 3}), 22'050}, 16'000).samples.sizes(),
            torch::IntArrayRef({2, 3}));
}

TEST_F(WavFile, IsWrittenInSixteenBits) {
  const torch::Tensor samples = torch::tensor({0.F, 0.5F, -1.F, 1.F, 9.F, -9.F, 3.4F / 32768});
  write_wav(path(), {samples, 16'000});
  EXPECT_EQ(read_text(path()),
            wav({}, little_endian(0, 2) + little_endian(0x4000, 2) + little_endian(0x8000, 2) +
                        little_endian(0x7FFF, 2) + little_endian(0x7FFF, 2) +
                        little_endian(0x8000, 2) + little_endian(3, 2)));
  const Sound both{torch::rand({2, 100}) - 0.5, 44'100};
  write_wav(path(), both);
  const Sound read_back = read_wav(path(), {.rate = 0, .mono = false});
  EXPECT_EQ(read_back.rate, 44'100);
  EXPECT_LE((read_back.samples - both.samples).abs().max().item<double>(), 0.5 / 32768);
  const std::string before = read_text(path());
  write_wav(path(), read_back);
  EXPECT_EQ(read_text(path()), before);
  EXPECT_THROW(write_wav(path(), {torch::zeros({0}), 16'000}), c10::Error);
  EXPECT_THROW(write_wav(path(), {torch::tensor({std::nanf("")}), 16'000}), c10::Error);
  EXPECT_THROW(write_wav(folder_ / "none/a.wav", both), UserError);
}

TEST_F(WavFile, IsWrittenAtARateThatCanBeRead) {
  const torch::Tensor samples = torch::zeros({4});
  for (const std::int64_t rate : {1'000, 768'000}) {
    write_wav(path(), {samples, rate});
    EXPECT_EQ(read_wav(path(), {.rate = 0}).rate, rate);
  }
  for (const std::int64_t rate : {-1LL, 0LL, 999LL, 768'001LL, (1LL << 32) + 16'000})
    EXPECT_THAT(
        message_of<UserError>([&] {
          write_wav(path(), {samples, rate});
        }),
        HasSubstr("expected 1000 to 768000 samples per second and at most 64 channels, got " +
                  std::to_string(rate) + " and 1"));
  EXPECT_THAT(message_of<UserError>([&] {
                write_wav(path(), {torch::zeros({65, 4}), 8'000});
              }),
              HasSubstr("got 8000 and 65"));
}

TEST_F(WavFile, ThatIsCutOffIsRefused) {
  const std::string whole = wav({}, std::string(100, '\1'));
  for (std::size_t bytes = 0; bytes < whole.size(); ++bytes)
    EXPECT_THAT(error_of(whole.substr(0, bytes)),
                AllOf(HasSubstr("'" + path().string() + "' is not a whole WAV file: "),
                      HasSubstr("; fetch it again, or name another")))
        << bytes;
  EXPECT_THAT(error_of(whole.substr(0, 100)),
              HasSubstr("its data chunk at byte 36 says 100 bytes, and 56 follow"));
}

TEST_F(WavFile, ThatIsDamagedIsRefusedOrRead) {
  const std::string whole = wav({.channels = 2}, std::string(40, '\1'), chunk("LIST", "abc"));
  for (std::size_t at = 0; at < whole.size(); ++at)
    for (const unsigned char flip : {0x01, 0x5A, 0xFF}) {
      std::string damaged = whole;
      damaged[at] = static_cast<char>(static_cast<unsigned char>(damaged[at]) ^ flip);
      try {
        EXPECT_EQ(read(damaged, {.rate = 0}).samples.dim(), 1);
      } catch (const UserError& error) {
        EXPECT_THAT(error.what(), HasSubstr(path().string()));
      }
    }
}

TEST_F(WavFile, OfAnotherKindIsRefused) {
  EXPECT_THAT(error_of("OggS" + std::string(60, '\0')), HasSubstr("RIFF and WAVE"));
  EXPECT_THAT(error_of(wav({}, "")), HasSubstr("is not a whole WAV file"));
  EXPECT_THAT(error_of(wav({.rate = 10}, std::string(20, '\1'))),
              HasSubstr("expected 1000 to 768000 samples per second, got 10"));
  EXPECT_THAT(error_of(wav({.channels = 200}, std::string(800, '\1'))), HasSubstr("channels"));
  const float nan = std::numeric_limits<float>::quiet_NaN();
  EXPECT_THAT(
      error_of(wav({.coding = 3, .bits = 32}, little_endian(std::bit_cast<std::uint32_t>(nan), 4))),
      HasSubstr("not finite"));
  const std::string adpcm =
      chunk("RIFF", "WAVE" +
                        chunk("fmt ", little_endian(0x11, 2) + little_endian(1, 2) +
                                          little_endian(8'000, 4) + little_endian(4'055, 4) +
                                          little_endian(256, 2) + little_endian(4, 2) +
                                          little_endian(2, 2) + little_endian(505, 2)) +
                        chunk("data", std::string(256, '\0')));
  EXPECT_THAT(error_of(adpcm), AllOf(HasSubstr("expected samples as PCM"), HasSubstr("sox")));
}

}  // namespace
}  // namespace halftone::wav_file_test
