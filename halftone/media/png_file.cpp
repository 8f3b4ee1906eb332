// SPDX-License-Identifier: Apache-2.0
#include "halftone/media/png_file.h"

#include <ATen/ops/empty.h>
#include <fmt/format.h>
#include <png.h>

#include <array>
#include <csetjmp>
#include <cstring>
#include <new>
#include <string>
#include <string_view>
#include <vector>

#include "halftone/core/error.h"
#include "halftone/media/picture.h"
#include "halftone/system/atomic_file.h"
#include "halftone/system/file.h"

namespace halftone {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t kMaxPngBytes = std::uint64_t{1} << 30U;
/// A byte of deflate gives at most 1032 (zlib's manual, "Maximum Compression Factor").
constexpr std::uint64_t kMostPixelsPerByte = 1032 * 8;
constexpr std::array<png_uint_32, 4> kFormats = {PNG_FORMAT_GRAY, PNG_FORMAT_GA, PNG_FORMAT_RGB,
                                                 PNG_FORMAT_RGBA};

/// What libpng's callbacks reach. Its errors are long jumps: no object with a destructor lives in
/// the functions that set one. (The simplified interface needs none, but the libpng of Debian 12
/// shows interlaced files of 16 bits wrongly through it.)
struct PngReading {
  const std::string* bytes = nullptr;
  std::size_t at = 0;
  png_structp png = nullptr;
  png_infop info = nullptr;
  std::array<char, 256> error{};
};

void fail_reading(png_structp png, png_const_charp message) {
  auto& reading = *static_cast<PngReading*>(png_get_error_ptr(png));
  std::strncpy(reading.error.data(), message, reading.error.size() - 1);
  png_longjmp(png, 1);
}

void ignore_warning(png_structp, png_const_charp) {}

void give_bytes(png_structp png, png_bytep out, png_size_t count) {
  auto& reading = *static_cast<PngReading*>(png_get_io_ptr(png));
  if (count > reading.bytes->size() - reading.at) png_error(png, "it is cut off");
  std::memcpy(out, reading.bytes->data() + reading.at, count);
  reading.at += count;
}

// Texts and profiles are skipped: unpacked, a small file's take gigabytes.
bool read_start(PngReading& reading) {
  if (setjmp(png_jmpbuf(reading.png)) != 0) return false;
  png_set_keep_unknown_chunks(reading.png, PNG_HANDLE_CHUNK_NEVER, nullptr, -1);
  png_set_read_fn(reading.png, &reading, give_bytes);
  png_read_info(reading.png, reading.info);
  png_set_expand(reading.png);
  png_set_scale_16(reading.png);
  png_set_interlace_handling(reading.png);
  png_read_update_info(reading.png, reading.info);
  return true;
}

bool read_rows(PngReading& reading, png_bytepp rows) {
  if (setjmp(png_jmpbuf(reading.png)) != 0) return false;
  png_read_image(reading.png, rows);
  png_read_end(reading.png, nullptr);
  return true;
}

class PngReader {
 public:
  explicit PngReader(const fs::path& path)
      : path_(path), bytes_(read_file(path, kMaxPngBytes)), reading_{.bytes = &bytes_} {
    reading_.png =
        png_create_read_struct(PNG_LIBPNG_VER_STRING, &reading_, fail_reading, ignore_warning);
    if (reading_.png != nullptr) reading_.info = png_create_info_struct(reading_.png);
    if (reading_.info == nullptr) throw std::bad_alloc();
  }
  ~PngReader() { png_destroy_read_struct(&reading_.png, &reading_.info, nullptr); }
  PngReader(const PngReader&) = delete;
  PngReader& operator=(const PngReader&) = delete;

  torch::Tensor read(std::int64_t max_pixels) {
    if (!read_start(reading_)) fail(reading_.error.data());
    const std::int64_t height = png_get_image_height(reading_.png, reading_.info);
    const std::int64_t width = png_get_image_width(reading_.png, reading_.info);
    check_size(height, width, max_pixels);
    const std::int64_t channels = png_get_channels(reading_.png, reading_.info);
    const auto row_bytes = static_cast<std::int64_t>(png_get_rowbytes(reading_.png, reading_.info));
    if (row_bytes != width * channels) fail("its rows are of an unknown kind");
    const torch::Tensor pixels = at::empty({height, width, channels}, torch::kByte);
    std::vector<png_bytep> rows(static_cast<std::size_t>(height));
    for (std::int64_t y = 0; y < height; ++y)
      rows[static_cast<std::size_t>(y)] = pixels.data_ptr<std::uint8_t>() + y * row_bytes;
    if (!read_rows(reading_, rows.data())) fail(reading_.error.data());
    return pixels.permute({2, 0, 1}).contiguous();
  }

 private:
  [[noreturn]] void fail(const std::string& what) const {
    throw UserError(
        fmt::format("'{}' is not a whole PNG file: {} (byte {} of {}); fetch it again, or name "
                    "another",
                    path_.string(), what, reading_.at, bytes_.size()));
  }

  void check_size(std::int64_t height, std::int64_t width, std::int64_t max_pixels) const {
    const auto pixels = static_cast<std::uint64_t>(height * width);  // below 2^62
    if (pixels > static_cast<std::uint64_t>(max_pixels))
      throw UserError(fmt::format(
          "cannot read '{}': its header says {} x {} pixels, expected at most {} in all; make it "
          "smaller, or name another",
          path_.string(), width, height, max_pixels));
    if (pixels > bytes_.size() * kMostPixelsPerByte)
      fail(fmt::format("its header says {} x {} pixels, more than it holds", width, height));
  }

  fs::path path_;
  std::string bytes_;
  PngReading reading_;
};

}  // namespace

torch::Tensor read_png(const fs::path& path, std::int64_t max_pixels) {
  return PngReader(path).read(max_pixels);
}

void write_png(const fs::path& path, const torch::Tensor& picture) {
  HALFTONE_CHECK(
      picture.dim() == 3 && picture.size(0) >= 1 && picture.size(0) <= 4 && picture.numel() > 0,
      "[write_png] expected (C, H, W) with 1 to 4 channels, got ", picture.sizes());
  const torch::Tensor pixels = bytes_of_picture(picture).cpu().permute({1, 2, 0}).contiguous();
  png_image image{};
  image.version = PNG_IMAGE_VERSION;
  image.width = static_cast<png_uint_32>(pixels.size(1));
  image.height = static_cast<png_uint_32>(pixels.size(0));
  image.format = kFormats[static_cast<std::size_t>(pixels.size(2) - 1)];
  std::string bytes(PNG_IMAGE_PNG_SIZE_MAX(image), '\0');
  png_alloc_size_t size = bytes.size();
  if (png_image_write_to_memory(&image, bytes.data(), &size, 0, pixels.const_data_ptr(), 0,
                                nullptr) == 0)
    throw UserError(fmt::format("cannot write '{}': {}", path.string(), image.message));
  write_file_atomically(path, std::string_view(bytes).substr(0, size));
}

void write_png_grid(const fs::path& path, const torch::Tensor& batch, std::int64_t columns) {
  constexpr std::int64_t kGap = 2;
  constexpr double kWhiteByte = 255;
  write_png(path, picture_grid(bytes_of_picture(batch), columns, kGap, kWhiteByte));
}

}  // namespace halftone
