// SPDX-License-Identifier: Apache-2.0
#include "halftone/media/wav_file.h"

#include <ATen/ops/empty.h>
#include <fmt/format.h>
#include <sndfile.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>

#include "halftone/core/error.h"
#include "halftone/system/atomic_file.h"
#include "halftone/system/file.h"

namespace halftone {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kLeastWavRate = 1'000;
constexpr std::int64_t kMostWavRate = 768'000;
constexpr int kMostChunks = 1'000;
constexpr int kMostChannels = 64;
constexpr float kPcmScale = 32'768;

using SoundHandle = std::unique_ptr<SNDFILE, decltype(&sf_close)>;

class WavReader {
 public:
  explicit WavReader(const fs::path& path) : path_(path), file_(File::open_regular(path)) {
    data_bytes_ = find_data();
    handle_.reset(sf_open_fd(file_.descriptor(), SFM_READ, &info_, SF_FALSE));
    if (!handle_) fail(sf_strerror(nullptr));
    check_coding();
  }

  // (C, T)
  torch::Tensor read(const WavOptions& options) {
    const std::int64_t frames = frames_of(options);
    if (sf_seek(handle_.get(), options.first, SEEK_SET) != options.first)
      fail(fmt::format("frame {} cannot be reached", options.first));
    const torch::Tensor samples = at::empty({frames, info_.channels}, torch::kFloat);
    const sf_count_t got = sf_readf_float(handle_.get(), samples.data_ptr<float>(), frames);
    if (got != frames)
      fail(fmt::format("it ends after frame {}, expected {}", options.first + got,
                       options.first + frames));
    if (!samples.isfinite().all().item<bool>()) fail("it has samples that are not finite");
    return samples.t().contiguous();
  }

  std::int64_t rate() const { return info_.samplerate; }

 private:
  [[noreturn]] void fail(const std::string& what) const {
    throw UserError(fmt::format("'{}' is not a whole WAV file: {}; fetch it again, or name another",
                                path_.string(), what));
  }

  std::uint32_t number_at(std::uint64_t offset) const {
    std::array<unsigned char, 4> bytes{};
    file_.read_at(offset, bytes.data(), bytes.size());
    return bytes[0] | bytes[1] << 8U | bytes[2] << 16U | std::uint32_t{bytes[3]} << 24U;
  }

  bool has_mark(std::uint64_t offset, std::string_view mark) const {
    std::array<char, 4> bytes{};
    file_.read_at(offset, bytes.data(), bytes.size());
    return std::string_view(bytes.data(), bytes.size()) == mark;
  }

  // The size of the samples in bytes. libsndfile takes what a file that is cut off still has.
  std::uint64_t find_data() const {
    constexpr std::uint64_t kStart = 12;
    constexpr std::uint64_t kHeader = 8;
    const std::uint64_t size = file_.size();
    if (size < kStart || !has_mark(0, "RIFF") || !has_mark(kHeader, "WAVE"))
      fail("expected it to start with RIFF and WAVE");
    std::uint64_t at = kStart;
    for (int chunk = 0; chunk < kMostChunks && at + kHeader <= size; ++chunk) {
      const std::uint64_t bytes = number_at(at + 4);
      if (has_mark(at, "data")) {
        if (bytes > size - at - kHeader)
          fail(fmt::format("its data chunk at byte {} says {} bytes, and {} follow", at, bytes,
                           size - at - kHeader));
        return bytes;
      }
      at += kHeader + bytes + bytes % 2;
    }
    fail("it has no data chunk");
  }

  void check_coding() const {
    constexpr std::array kCodings = {SF_FORMAT_PCM_U8, SF_FORMAT_PCM_16, SF_FORMAT_PCM_24,
                                     SF_FORMAT_PCM_32, SF_FORMAT_FLOAT,  SF_FORMAT_DOUBLE,
                                     SF_FORMAT_ULAW,   SF_FORMAT_ALAW};
    const int coding = info_.format & SF_FORMAT_SUBMASK;
    if (std::find(kCodings.begin(), kCodings.end(), coding) == kCodings.end())
      throw UserError(fmt::format(
          "cannot read '{}': expected samples as PCM, floats, A-law or mu-law, got libsndfile's "
          "coding {:#x}; convert it with 'sox IN -e signed -b 16 OUT.wav'",
          path_.string(), coding));
    if (info_.channels < 1 || info_.channels > kMostChannels)
      fail(fmt::format("expected 1 to {} channels, got {}", kMostChannels, info_.channels));
    if (info_.samplerate < kLeastWavRate || info_.samplerate > kMostWavRate)
      fail(fmt::format("expected {} to {} samples per second, got {}", kLeastWavRate, kMostWavRate,
                       info_.samplerate));
    if (info_.frames < 1) fail("it holds no samples");
    if (static_cast<std::uint64_t>(info_.frames) > data_bytes_)
      fail(fmt::format("it says {} frames in {} bytes", info_.frames, data_bytes_));
  }

  std::int64_t frames_of(const WavOptions& options) const {
    HALFTONE_CHECK(options.first >= 0 && options.frames >= -1,
                   "[read_wav] expected frames from 0 on, got ", options.first, " and ",
                   options.frames);
    const std::int64_t left = info_.frames - std::min<std::int64_t>(options.first, info_.frames);
    const std::int64_t frames = options.frames < 0 ? left : options.frames;
    if (frames > left || frames == 0)
      fail(fmt::format("expected {} frames from frame {} on, got {} in all",
                       std::max<std::int64_t>(frames, 1), options.first, info_.frames));
    if (frames > options.max_frames)
      throw UserError(fmt::format("cannot read '{}': expected at most {} frames, got {}; cut it up",
                                  path_.string(), options.max_frames, frames));
    return frames;
  }

  fs::path path_;
  File file_;
  std::uint64_t data_bytes_ = 0;
  SF_INFO info_{};
  SoundHandle handle_{nullptr, &sf_close};
};

/// libsndfile's view of a string that it writes to.
struct WrittenSound {
  std::string bytes;
  std::size_t at = 0;

  static WrittenSound& of(void* user) { return *static_cast<WrittenSound*>(user); }
  static sf_count_t size(void* user) { return static_cast<sf_count_t>(of(user).bytes.size()); }
  static sf_count_t seek(sf_count_t offset, int whence, void* user) {
    WrittenSound& self = of(user);
    const sf_count_t from = whence == SEEK_SET   ? 0
                            : whence == SEEK_CUR ? static_cast<sf_count_t>(self.at)
                                                 : size(user);
    self.at = static_cast<std::size_t>(std::clamp<sf_count_t>(from + offset, 0, size(user)));
    return static_cast<sf_count_t>(self.at);
  }
  static sf_count_t read(void* to, sf_count_t count, void* user) {
    WrittenSound& self = of(user);
    const auto bytes = std::min(static_cast<std::size_t>(count), self.bytes.size() - self.at);
    std::memcpy(to, self.bytes.data() + self.at, bytes);
    self.at += bytes;
    return static_cast<sf_count_t>(bytes);
  }
  static sf_count_t write(const void* from, sf_count_t count, void* user) {
    WrittenSound& self = of(user);
    const auto bytes = static_cast<std::size_t>(count);
    if (self.bytes.size() < self.at + bytes) self.bytes.resize(self.at + bytes);
    std::memcpy(self.bytes.data() + self.at, from, bytes);
    self.at += bytes;
    return count;
  }
  static sf_count_t tell(void* user) { return static_cast<sf_count_t>(of(user).at); }
};

torch::Tensor pcm_of(const torch::Tensor& samples) {
  return samples.mul(kPcmScale).round_().clamp_(-kPcmScale, kPcmScale - 1).to(torch::kShort);
}

}  // namespace

Sound read_wav(const fs::path& path, const WavOptions& options) {
  WavReader reader(path);
  torch::Tensor samples = reader.read(options);
  if (options.mono) samples = samples.size(0) == 1 ? samples[0] : samples.mean(0);
  const Sound sound{samples, reader.rate()};
  return options.rate == 0 ? sound : resampled_sound(sound, options.rate);
}

void write_wav(const fs::path& path, const Sound& sound) {
  HALFTONE_CHECK(sound.samples.scalar_type() == torch::kFloat && sound.samples.numel() > 0 &&
                     (sound.samples.dim() == 1 || sound.samples.dim() == 2),
                 "[write_wav] expected float32 (T) or (C, T) with samples, got ",
                 sound.samples.sizes());
  HALFTONE_CHECK(sound.samples.isfinite().all().item<bool>(),
                 "[write_wav] expected samples that are finite");
  const torch::Tensor frames =
      pcm_of(sound.samples.cpu().reshape({-1, sound.samples.size(-1)})).t().contiguous();
  if (sound.rate < kLeastWavRate || sound.rate > kMostWavRate || frames.size(1) > kMostChannels)
    throw UserError(fmt::format(
        "cannot write '{}': expected {} to {} samples per second and at most {} "
        "channels, got {} and {}",
        path.string(), kLeastWavRate, kMostWavRate, kMostChannels, sound.rate, frames.size(1)));
  SF_INFO info{};
  info.samplerate = static_cast<int>(sound.rate);
  info.channels = static_cast<int>(frames.size(1));
  info.format = SF_FORMAT_WAV | SF_FORMAT_PCM_16;
  WrittenSound written;
  SF_VIRTUAL_IO io{WrittenSound::size, WrittenSound::seek, WrittenSound::read, WrittenSound::write,
                   WrittenSound::tell};
  SoundHandle handle(sf_open_virtual(&io, SFM_WRITE, &info, &written), &sf_close);
  if (!handle || sf_writef_short(handle.get(), frames.const_data_ptr<std::int16_t>(),
                                 frames.size(0)) != frames.size(0))
    throw UserError(fmt::format("cannot write '{}': {}", path.string(), sf_strerror(handle.get())));
  handle.reset();  // writes the sizes
  write_file_atomically(path, written.bytes);
}

}  // namespace halftone
