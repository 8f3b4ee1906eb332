// SPDX-License-Identifier: Apache-2.0
#include "halftone/data/gzip_file.h"

#include <fmt/format.h>
#include <zlib.h>

#include <algorithm>
#include <array>
#include <limits>
#include <string_view>
#include <vector>

#include "halftone/core/error.h"
#include "halftone/system/file.h"

namespace halftone {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kChunkBytes = std::size_t{256} << 10U;
constexpr std::array<unsigned char, 2> kGzipMark = {0x1F, 0x8B};
constexpr int kGzipOnly = 16 + MAX_WBITS;
/// A byte of deflate gives at most 1032 (zlib's manual, "Maximum Compression Factor").
constexpr std::uint64_t kMostPerByte = 1032;

}  // namespace

struct GzipFile::State {
  explicit State(const fs::path& file_path)
      : path(file_path), file(File::open_regular(file_path)), size(file.size()) {
    std::array<unsigned char, 2> mark{};
    if (size < mark.size()) return;
    file.read_at(0, mark.data(), mark.size());
    packed = mark == kGzipMark;
    if (!packed) return;
    chunk.resize(kChunkBytes);
    if (inflateInit2(&stream, kGzipOnly) != Z_OK) throw std::bad_alloc();
  }
  ~State() {
    if (packed) inflateEnd(&stream);
  }
  State(const State&) = delete;
  State& operator=(const State&) = delete;

  [[noreturn]] void fail(std::string_view what) const {
    throw UserError(
        fmt::format("'{}' is not a complete gzip file: {} at byte {} of {}; fetch it again",
                    path.string(), what, read_to - stream.avail_in, size));
  }

  std::size_t copy(void* out, std::size_t bytes) {
    const auto count = static_cast<std::size_t>(std::min<std::uint64_t>(bytes, size - read_to));
    file.read_at(read_to, out, count);
    read_to += count;
    return count;
  }

  // False at the end of the file.
  bool refill() {
    stream.next_in = chunk.data();
    stream.avail_in = static_cast<uInt>(copy(chunk.data(), chunk.size()));
    return stream.avail_in > 0;
  }

  // A file may hold several members; what stands behind the last must be another.
  void end_member() {
    if (stream.avail_in == 0 && !refill())
      ended = true;
    else if (inflateReset(&stream) != Z_OK)
      fail("reading failed");
  }

  std::size_t inflate_some(void* out, std::size_t bytes) {
    stream.next_out = static_cast<Bytef*>(out);
    const std::size_t wanted = std::min<std::size_t>(bytes, std::numeric_limits<uInt>::max());
    stream.avail_out = static_cast<uInt>(wanted);
    while (stream.avail_out > 0 && !ended) {
      if (stream.avail_in == 0 && !refill()) fail("it is cut off");
      switch (inflate(&stream, Z_NO_FLUSH)) {
        case Z_OK:
        case Z_BUF_ERROR:  // no progress without more input or room
          break;
        case Z_STREAM_END:
          end_member();
          break;
        case Z_MEM_ERROR:
          throw std::bad_alloc();
        default:
          fail(stream.msg == nullptr ? "damaged" : stream.msg);
      }
    }
    return wanted - stream.avail_out;
  }

  fs::path path;
  File file;
  std::uint64_t size;
  std::uint64_t read_to = 0;  // bytes of the file that were looked at
  std::uint64_t position = 0;
  bool packed = false;
  bool ended = false;
  z_stream stream{};
  std::vector<unsigned char> chunk;
};

GzipFile::GzipFile(const fs::path& path) : state_(std::make_unique<State>(path)) {}

GzipFile::~GzipFile() = default;

std::size_t GzipFile::read(void* out, std::size_t bytes) {
  State& state = *state_;
  auto* to = static_cast<unsigned char*>(out);
  std::size_t done = 0;
  while (done < bytes) {
    const std::size_t count = state.packed ? state.inflate_some(to + done, bytes - done)
                                           : state.copy(to + done, bytes - done);
    if (count == 0) break;
    done += count;
  }
  state.position += done;
  return done;
}

std::uint64_t GzipFile::position() const { return state_->position; }

std::uint64_t GzipFile::most_bytes() const {
  return state_->packed ? state_->size * kMostPerByte : state_->size;
}

}  // namespace halftone
