// SPDX-License-Identifier: Apache-2.0
#include "halftone/data/npy_file.h"

#include <ATen/ops/empty.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cctype>
#include <charconv>
#include <cstring>
#include <optional>
#include <string>

#include "halftone/core/error.h"
#include "halftone/system/mapped_file.h"

namespace halftone {
namespace {

namespace fs = std::filesystem;

static_assert(std::endian::native == std::endian::little, "elements are copied as they stand");

constexpr std::string_view kNpyMagic = "\x93NUMPY";
constexpr std::size_t kMaxNpyDimensions = 64;  // what NumPy and LibTorch's operations take

struct NpyDtype {
  std::string_view code;  // without the byte order
  torch::ScalarType dtype;
};
constexpr std::array<NpyDtype, 9> kNpyDtypes = {{{"f2", torch::kHalf},
                                                 {"f4", torch::kFloat},
                                                 {"f8", torch::kDouble},
                                                 {"i1", torch::kChar},
                                                 {"i2", torch::kShort},
                                                 {"i4", torch::kInt},
                                                 {"i8", torch::kLong},
                                                 {"u1", torch::kByte},
                                                 {"b1", torch::kBool}}};

/// Reads the header's dictionary from front to back.
class NpyHeaderReader {
 public:
  NpyHeaderReader(std::string_view bytes, std::uint64_t file_bytes, const fs::path& path)
      : bytes_(bytes), file_bytes_(file_bytes), path_(path) {}

  NpyHeader read() {
    read_start();
    expect('{');
    while (!skip('}')) {
      read_entry();
      if (!skip(',')) {
        expect('}');
        break;
      }
    }
    skip_space();
    if (at_ != end_) fail("expected nothing behind the header's }");
    if (!dtype_ || !fortran_order_ || !shape_)
      fail("expected 'descr', 'fortran_order' and 'shape' in the header");
    if (*fortran_order_ && std::count_if(shape_->begin(), shape_->end(), is_long) > 1)
      refuse("is in Fortran order, expected C order",
             "numpy.save(PATH, numpy.ascontiguousarray(array))");
    check_size();
    return {*dtype_, *shape_, end_};
  }

 private:
  static bool is_long(std::int64_t size) { return size != 1; }

  [[noreturn]] void fail(const std::string& what) const {
    throw UserError(fmt::format(
        "'{}' is not a whole .npy file: {} at byte {}; write it again with numpy.save, or name "
        "another",
        path_.string(), what, std::min<std::uint64_t>(at_, file_bytes_)));
  }
  [[noreturn]] void refuse(const std::string& what, const std::string& remedy) const {
    throw UserError(fmt::format("'{}' {} (at byte {}); write it again with {}", path_.string(),
                                what, at_, remedy));
  }

  void read_start() {
    if (!bytes_.starts_with(kNpyMagic)) fail("expected 93 'NUMPY'");
    at_ = kNpyMagic.size();
    if (bytes_.size() < at_ + 2) fail("it ends within the version");
    const unsigned version = byte(at_);
    if (version < 1 || version > 3 || byte(at_ + 1) != 0)
      fail(fmt::format("expected version 1.0, 2.0 or 3.0, got {}.{}", version, byte(at_ + 1)));
    at_ += 2;
    const std::size_t width = version == 1 ? 2 : 4;
    if (bytes_.size() < at_ + width) fail("it ends within the length of the header");
    std::uint64_t length = 0;
    for (std::size_t i = width; i > 0; --i) length = length << 8U | byte(at_ + i - 1);
    at_ += width;
    if (length > bytes_.size() - at_)
      fail(fmt::format("it ends within the header, which is {} bytes long,", length));
    end_ = at_ + length;
  }

  void read_entry() {
    const std::string key = text();
    expect(':');
    if (key == "descr" && !dtype_)
      read_dtype();
    else if (key == "fortran_order" && !fortran_order_)
      fortran_order_ = truth();
    else if (key == "shape" && !shape_)
      shape_ = sizes();
    else
      fail(fmt::format("expected 'descr', 'fortran_order' and 'shape' once, got '{}'", shown(key)));
  }

  void read_dtype() {
    skip_space();
    if (at_ < end_ && bytes_[at_] == '[')
      refuse("has several fields, expected one dtype", "numpy.save(PATH, array['FIELD']) for each");
    const std::string code = text();
    const std::string_view kind =
        std::string_view(code).substr(std::min<std::size_t>(1, code.size()));
    if (code.starts_with('>') && kind.size() == 2 && kind[1] != '1')
      refuse(fmt::format("is big endian ('{}'), expected little endian", shown(code)),
             "numpy.save(PATH, array.astype(array.dtype.newbyteorder('<')))");
    if (code.starts_with("|O"))
      refuse("holds Python objects, expected numbers", "numpy.save(PATH, array.astype('float32'))");
    const auto* known = std::find_if(kNpyDtypes.begin(), kNpyDtypes.end(),
                                     [&](const NpyDtype& one) { return one.code == kind; });
    if (known == kNpyDtypes.end() || (code[0] != '<' && code[0] != '|'))
      refuse(fmt::format("has the dtype '{}', expected one of <f2, <f4, <f8, |i1, <i2, <i4, <i8, "
                         "|u1 and |b1",
                         shown(code)),
             "numpy.save(PATH, array.astype('float32')), or an integer that holds its values");
    dtype_ = known->dtype;
  }

  // Behind the last element there is nothing, as there is nothing to tell what it would be.
  void check_size() {
    std::uint64_t bytes = torch::elementSize(*dtype_);
    bool overflow = false;  // a size of 0 must not hide that the others overflow
    for (const std::int64_t size : *shape_)
      overflow |= __builtin_mul_overflow(bytes, std::max<std::int64_t>(size, 1), &bytes);
    if (std::find(shape_->begin(), shape_->end(), 0) != shape_->end()) bytes = 0;
    at_ = end_;
    if (overflow || file_bytes_ - end_ != bytes)
      fail(fmt::format("expected {} bytes for the shape ({}), got {}",
                       overflow ? "far more" : std::to_string(bytes), fmt::join(*shape_, ", "),
                       file_bytes_ - end_));
  }

  std::vector<std::int64_t> sizes() {
    expect('(');
    std::vector<std::int64_t> found;
    while (!skip(')')) {
      found.push_back(size());
      if (found.size() > kMaxNpyDimensions)
        fail(fmt::format("expected at most {} dimensions", kMaxNpyDimensions));
      if (!skip(',')) {
        expect(')');
        break;
      }
    }
    return found;
  }
  std::int64_t size() {
    skip_space();
    std::int64_t value = -1;
    const char* first = bytes_.data() + at_;
    const auto [behind, error] = std::from_chars(first, bytes_.data() + end_, value);
    if (error != std::errc() || value < 0) fail("expected a size from 0 on");
    at_ += static_cast<std::uint64_t>(behind - first);
    return value;
  }
  bool truth() {
    skip_space();
    for (const auto& [word, value] :
         {std::pair(std::string_view("True"), true), std::pair(std::string_view("False"), false)})
      if (bytes_.substr(at_, end_ - at_).starts_with(word)) {
        at_ += word.size();
        return value;
      }
    fail("expected True or False");
  }
  std::string text() {
    skip_space();
    const char quote = at_ < end_ ? bytes_[at_] : '\0';
    if (quote != '\'' && quote != '"') fail("expected a word in quotes");
    const std::size_t behind = bytes_.find(quote, at_ + 1);
    if (behind >= end_) fail("expected a word that ends");
    const std::string word(bytes_.substr(at_ + 1, behind - at_ - 1));
    at_ = behind + 1;
    return word;
  }
  // For a message: short, and nothing that a terminal would take for a command.
  static std::string shown(std::string word) {
    if (word.size() > 20) word = word.substr(0, 20) + "...";
    for (char& c : word)
      if (c < ' ' || c > '~') c = '?';
    return word;
  }

  void skip_space() {
    while (at_ < end_ && (bytes_[at_] == ' ' || bytes_[at_] == '\n')) ++at_;
  }
  bool skip(char wanted) {
    skip_space();
    const bool is_there = at_ < end_ && bytes_[at_] == wanted;
    if (is_there) ++at_;
    return is_there;
  }
  void expect(char wanted) {
    if (!skip(wanted)) fail(fmt::format("expected {} in the header", wanted));
  }
  unsigned byte(std::uint64_t at) const { return static_cast<unsigned char>(bytes_[at]); }

  std::string_view bytes_;
  std::uint64_t file_bytes_;
  const fs::path& path_;
  std::uint64_t at_ = 0;
  std::uint64_t end_ = 0;  // of the header
  std::optional<torch::ScalarType> dtype_;
  std::optional<bool> fortran_order_;
  std::optional<std::vector<std::int64_t>> shape_;
};

}  // namespace

NpyHeader parse_npy_header(std::string_view bytes, std::uint64_t file_bytes, const fs::path& path) {
  return NpyHeaderReader(bytes, file_bytes, path).read();
}

torch::Tensor read_npy(const fs::path& path) {
  const MappedFile file(path);
  const std::string_view bytes = file.bytes(0, file.size());
  const NpyHeader header = parse_npy_header(bytes, file.size(), path);
  const bool is_bool = header.dtype == torch::kBool;
  const torch::Tensor array = at::empty(header.shape, is_bool ? torch::kByte : header.dtype);
  if (array.nbytes() > 0)
    std::memcpy(array.data_ptr(), bytes.data() + header.first_byte, array.nbytes());
  return is_bool ? array.ne(0) : array;
}

}  // namespace halftone
