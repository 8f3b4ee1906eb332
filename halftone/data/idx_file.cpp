// SPDX-License-Identifier: Apache-2.0
#include "halftone/data/idx_file.h"

#include <ATen/ops/empty.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <bit>
#include <string_view>
#include <vector>

#include "halftone/core/error.h"
#include "halftone/core/text.h"
#include "halftone/data/gzip_file.h"

namespace halftone {
namespace {

namespace fs = std::filesystem;

struct DtypeCode {
  unsigned char code;
  torch::ScalarType dtype;
};

constexpr std::array<DtypeCode, 6> kDtypes = {{{0x08, torch::kByte},
                                               {0x09, torch::kChar},
                                               {0x0B, torch::kShort},
                                               {0x0C, torch::kInt},
                                               {0x0D, torch::kFloat},
                                               {0x0E, torch::kDouble}}};
constexpr std::size_t kMaxDimensions = 64;  // what LibTorch's operations take

class IdxReader {
 public:
  explicit IdxReader(const fs::path& path) : path_(path), file_(path) {}

  torch::Tensor read(std::uint64_t max_bytes) {
    const torch::ScalarType dtype = read_start();
    const std::vector<std::int64_t> shape = read_shape();
    check_size(shape, torch::elementSize(dtype), max_bytes);
    torch::Tensor array = at::empty(shape, dtype);
    need(array.data_ptr(), array.nbytes(), "the elements");
    char extra = 0;
    if (file_.read(&extra, 1) != 0)
      fail(fmt::format("more bytes follow the last element, at byte {}", file_.position() - 1));
    if constexpr (std::endian::native == std::endian::little) swap_bytes(array);
    return array;
  }

 private:
  [[noreturn]] void fail(const std::string& what) const {
    throw UserError(
        fmt::format("'{}' is not a complete IDX file: {}; fetch it again, or name another",
                    path_.string(), what));
  }

  void need(void* out, std::size_t bytes, std::string_view what) {
    if (file_.read(out, bytes) != bytes)
      fail(fmt::format("it ends at byte {}, within {}", file_.position(), what));
  }

  torch::ScalarType read_start() {
    std::array<unsigned char, 3> start{};
    need(start.data(), start.size(), "its first 4 bytes");
    if (start[0] != 0 || start[1] != 0)
      fail(fmt::format("expected it to start with two zero bytes, got {:02x} {:02x}", start[0],
                       start[1]));
    const auto* known = std::find_if(kDtypes.begin(), kDtypes.end(), [&](const DtypeCode& entry) {
      return entry.code == start[2];
    });
    if (known == kDtypes.end())
      fail(fmt::format("expected a dtype of 08, 09, 0b, 0c, 0d or 0e at byte 2, got {:02x}",
                       start[2]));
    return known->dtype;
  }

  std::vector<std::int64_t> read_shape() {
    unsigned char rank = 0;
    need(&rank, 1, "its first 4 bytes");
    if (rank > kMaxDimensions)
      fail(fmt::format("expected at most {} dimensions at byte 3, got {}", kMaxDimensions, rank));
    std::vector<std::int64_t> shape;
    for (unsigned i = 0; i < rank; ++i) {
      std::array<unsigned char, 4> size{};
      need(size.data(), size.size(), "the sizes of the dimensions");
      shape.push_back(std::int64_t{size[0]} << 24 | size[1] << 16 | size[2] << 8 | size[3]);
    }
    return shape;
  }

  void check_size(const std::vector<std::int64_t>& shape, std::uint64_t element_bytes,
                  std::uint64_t max_bytes) const {
    // A size of 0 must not hide that the others overflow.
    std::uint64_t bytes = element_bytes;
    bool overflow = false;
    for (const std::int64_t size : shape)
      overflow |= __builtin_mul_overflow(bytes, std::max<std::int64_t>(size, 1), &bytes);
    const bool empty = std::find(shape.begin(), shape.end(), 0) != shape.end();
    if (overflow || (!empty && bytes > file_.most_bytes()))
      fail(fmt::format("its header says {} elements, more than a file of this size holds",
                       fmt::join(shape, " x ")));
    if (bytes > max_bytes)
      throw UserError(fmt::format(
          "cannot read '{}': its header says {} elements, {}; expected at most {}; is it the right "
          "file?",
          path_.string(), fmt::join(shape, " x "), format_bytes(bytes), format_bytes(max_bytes)));
  }

  static void swap_bytes(torch::Tensor& array) {
    const std::size_t width = array.element_size();
    if (width == 1) return;
    auto* at = static_cast<char*>(array.data_ptr());
    for (const char* end = at + array.nbytes(); at != end; at += width)
      std::reverse(at, at + width);
  }

  fs::path path_;
  GzipFile file_;
};

}  // namespace

torch::Tensor read_idx(const fs::path& path, std::uint64_t max_bytes) {
  return IdxReader(path).read(max_bytes);
}

}  // namespace halftone
