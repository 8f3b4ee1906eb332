// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <optional>
#include <set>
#include <type_traits>
#include <utility>

#include "halftone/core/error.h"
#include "halftone/core/text.h"
#include "halftone/io/gguf.h"
#include "halftone/io/gguf_impl.h"
#include "halftone/io/q8_0.h"
#include "halftone/system/file.h"
#include "halftone/system/json_reader_impl.h"

namespace halftone {
namespace {

using torch::Tensor;

/// Of the header in all: what is kept in memory is a small multiple of it.
constexpr std::uint64_t kMaxGgufHeader = std::uint64_t{256} << 20U;
constexpr std::uint64_t kMaxAlignment = std::uint64_t{1} << 20U;
// The fewest bytes of a metadata entry (key, type, value) and of a tensor's outline.
constexpr std::uint64_t kLeastEntryBytes = 8 + 4 + 1;
constexpr std::uint64_t kLeastOutlineBytes = 8 + 4 + 4 + 8;

struct GgufOutline {
  std::string name;
  std::vector<std::int64_t> sizes;  // as LibTorch counts
  GgufType type = GgufType::kF32;
  std::uint64_t begin = 0;  // from the start of the data
  std::uint64_t bytes = 0;
};

/// ggml's other types, by their numbers: for an error that names them.
constexpr std::array<const char*, 40> kGgmlTypes = {
    "F32",   "F16",        "Q4_0",       "Q4_1",       "Q4_2",     "Q4_3",     "Q5_0",
    "Q5_1",  "Q8_0",       "Q8_1",       "Q2_K",       "Q3_K",     "Q4_K",     "Q5_K",
    "Q6_K",  "Q8_K",       "IQ2_XXS",    "IQ2_XS",     "IQ3_XXS",  "IQ1_S",    "IQ4_NL",
    "IQ3_S", "IQ2_S",      "IQ4_XS",     "I8",         "I16",      "I32",      "I64",
    "F64",   "IQ1_M",      "BF16",       "Q4_0_4_4",   "Q4_0_4_8", "Q4_0_8_8", "TQ1_0",
    "TQ2_0", "IQ4_NL_4_4", "IQ4_NL_4_8", "IQ4_NL_8_8", "MXFP4"};

/// Reads one file's header. Every complaint names the file, and no count is believed that the bytes
/// which are left could not hold.
class GgufReader {
 public:
  explicit GgufReader(const std::filesystem::path& path)
      : path_(path.string()), file_(File::open_regular(path)), size_(file_.size()) {}

  void read();

  GgufMetadata take_metadata() { return std::move(metadata_); }
  const std::vector<GgufOutline>& outlines() const { return outlines_; }
  Tensor tensor(const GgufOutline& outline) const;

 private:
  std::string path_;
  File file_;
  std::uint64_t size_;
  std::uint64_t at_ = 0;
  std::vector<char> window_;
  std::uint64_t window_begin_ = 0;
  GgufMetadata metadata_;
  std::vector<GgufOutline> outlines_;
  std::uint64_t data_start_ = 0;

  [[noreturn]] void fail(const std::string& what) const {
    throw UserError(fmt::format("'{}' is not a valid GGUF file: {}; it may be damaged or cut off",
                                path_, what));
  }

  std::uint64_t left() const { return std::min(size_, kMaxGgufHeader) - at_; }
  void require(std::uint64_t bytes, const std::string& what) const;
  void take(void* to, std::size_t bytes, const std::string& what);
  template <class T>
  T number(const std::string& what);
  std::string text(const std::string& what);
  std::uint64_t count(std::uint64_t least_bytes, const std::string& what);
  void check_start();
  template <std::size_t kType = 0>
  GgufValue value(std::uint32_t type, const std::string& what);
  template <std::size_t kType = 0>
  GgufArray array(std::uint32_t type, const std::string& what);
  template <class T>
  T element(const std::string& what);
  void read_entry(std::uint64_t index);
  void read_outline(std::uint64_t index);
  GgufType known_type(std::uint32_t type, const std::string& name) const;
  std::uint64_t alignment() const;
  void check_layout() const;
};

void GgufReader::require(std::uint64_t bytes, const std::string& what) const {
  if (bytes <= left()) return;
  if (size_ > kMaxGgufHeader && bytes <= size_ - at_)
    fail(fmt::format("its header goes on beyond {} bytes at {}", kMaxGgufHeader, what));
  fail(fmt::format("{} needs {} bytes from byte {} on, but the file ends at byte {}", what, bytes,
                   at_, size_));
}

/// Through a window, since a header is made of thousands of small pieces.
void GgufReader::take(void* to, std::size_t bytes, const std::string& what) {
  constexpr std::uint64_t kWindow = std::uint64_t{1} << 16U;
  require(bytes, what);
  if (bytes > kWindow) {
    file_.read_at(at_, to, bytes);
    at_ += bytes;
    return;
  }
  if (at_ + bytes > window_begin_ + window_.size()) {
    window_begin_ = at_;
    window_.resize(std::min(kWindow, size_ - at_));
    file_.read_at(at_, window_.data(), window_.size());
  }
  if (bytes > 0) std::memcpy(to, window_.data() + (at_ - window_begin_), bytes);
  at_ += bytes;
}

template <class T>
T GgufReader::number(const std::string& what) {
  T result{};
  take(&result, sizeof result, what);
  return result;
}

std::string GgufReader::text(const std::string& what) {
  const auto length = number<std::uint64_t>(what);
  require(length, what);
  std::string result(length, '\0');
  take(result.data(), result.size(), what);
  if (find_invalid_utf8(result)) fail(what + " is not UTF-8");
  return result;
}

std::uint64_t GgufReader::count(std::uint64_t least_bytes, const std::string& what) {
  const auto result = number<std::uint64_t>(what);
  if (result > left() / least_bytes)
    fail(fmt::format("{} is {}, but the {} bytes that follow cannot hold so many", what, result,
                     size_ - at_));
  return result;
}

template <class T>
T GgufReader::element(const std::string& what) {
  if constexpr (std::is_same_v<T, std::string>) {
    return text(what);
  } else if constexpr (std::is_same_v<T, bool>) {
    const auto byte = number<std::uint8_t>(what);
    if (byte > 1) fail(fmt::format("{} of type bool holds a byte other than 0 and 1", what));
    return byte == 1;
  } else {
    return number<T>(what);
  }
}

template <std::size_t kType>
GgufArray GgufReader::array(std::uint32_t type, const std::string& what) {
  if constexpr (kType < std::variant_size_v<GgufArray>) {
    if (type != kType) return array<kType + 1>(type, what);
    using Values = std::variant_alternative_t<kType, GgufArray>;
    if constexpr (std::is_same_v<Values, std::monostate>) {
      fail(fmt::format("{} is an array of arrays, which is not read here", what));
    } else {
      using T = typename Values::value_type;
      constexpr bool kIsText = std::is_same_v<T, std::string>;
      const std::uint64_t size = count(kIsText ? 8 : sizeof(T), what);
      Values values;
      values.reserve(size);
      for (std::uint64_t i = 0; i < size; ++i) values.push_back(element<T>(what));
      return values;
    }
  } else {
    fail(fmt::format("{} is an array of the unknown type {}", what, type));
  }
}

template <std::size_t kType>
GgufValue GgufReader::value(std::uint32_t type, const std::string& what) {
  if constexpr (kType < std::variant_size_v<GgufValue>) {
    if (type != kType) return value<kType + 1>(type, what);
    using T = std::variant_alternative_t<kType, GgufValue>;
    if constexpr (std::is_same_v<T, GgufArray>)
      return array(number<std::uint32_t>(what), what);
    else
      return GgufValue(std::in_place_index<kType>, element<T>(what));
  } else {
    fail(fmt::format("{} is of the unknown type {}", what, type));
  }
}

void GgufReader::check_start() {
  std::array<char, sizeof gguf::kMagic> magic{};
  take(magic.data(), magic.size(), "its first word");
  if (std::memcmp(magic.data(), gguf::kMagic, magic.size()) != 0)
    fail("it does not begin with \"GGUF\"");
  const auto version = number<std::uint32_t>("its version");
  if (version >> 16U != 0 && (version & 0xFFFFU) == 0)
    throw UserError(fmt::format(
        "'{}': its numbers are big-endian, expected a little-endian GGUF file; convert it with "
        "gguf_convert_endian.py of llama.cpp",
        path_));
  if (version != 2 && version != gguf::kVersion)
    throw UserError(fmt::format(
        "'{}' is of version {} of GGUF, expected 2 or 3; make it anew with a program of today",
        path_, version));
}

void GgufReader::read_entry(std::uint64_t index) {
  const std::string key = text(fmt::format("the key of metadata {}", index));
  if (key.empty()) fail(fmt::format("the key of metadata {} is empty", index));
  const std::string what = fmt::format("metadata {}", quoted_json(key));
  if (metadata_.contains(key)) fail(what + " stands there twice");
  metadata_.set(key, value(number<std::uint32_t>(what), what));
}

GgufType GgufReader::known_type(std::uint32_t type, const std::string& name) const {
  for (const GgufType known : {GgufType::kF32, GgufType::kF16, GgufType::kQ8_0, GgufType::kBF16})
    if (static_cast<std::uint32_t>(known) == type) return known;
  throw UserError(fmt::format(
      "'{}': tensor {} is of type {}, expected F32, F16, BF16 or Q8_0; convert the file with "
      "llama-quantize of llama.cpp",
      path_, quoted_json(name),
      type < kGgmlTypes.size() ? kGgmlTypes.at(type) : fmt::format("{}", type)));
}

void GgufReader::read_outline(std::uint64_t index) {
  GgufOutline outline{.name = text(fmt::format("the name of tensor {}", index))};
  const std::string what = fmt::format("tensor {}", quoted_json(outline.name));
  const auto dimensions = number<std::uint32_t>(what);
  if (dimensions > gguf::kMaxDimensions)
    fail(fmt::format("{} has {} dimensions, more than {}", what, dimensions, gguf::kMaxDimensions));
  std::int64_t elements = 1;
  std::int64_t stride = 1;  // LibTorch multiplies strides without zeros
  for (std::uint32_t i = 0; i < dimensions; ++i) {
    const auto size = number<std::int64_t>(what);
    if (size < 0 || __builtin_mul_overflow(elements, size, &elements) ||
        __builtin_mul_overflow(stride, std::max<std::int64_t>(size, 1), &stride) ||
        stride > std::int64_t{1} << 60U)
      fail(fmt::format("the shape of {} is too large", what));
    outline.sizes.insert(outline.sizes.begin(), size);
  }
  outline.type = known_type(number<std::uint32_t>(what), outline.name);
  if (outline.type == GgufType::kQ8_0 &&
      (outline.sizes.empty() || outline.sizes.back() % kQ8BlockSize != 0))
    fail(fmt::format("{} is of type Q8_0, but its rows are no multiple of {} numbers", what,
                     kQ8BlockSize));
  outline.bytes = gguf_bytes(outline.type, static_cast<std::uint64_t>(elements));
  outline.begin = number<std::uint64_t>(what);
  outlines_.push_back(std::move(outline));
}

std::uint64_t GgufReader::alignment() const {
  if (!metadata_.contains(gguf::kAlignmentKey)) return gguf::kDefaultAlignment;
  std::int64_t alignment = 0;
  try {
    alignment = metadata_.integer(gguf::kAlignmentKey);
  } catch (const UserError& error) {
    fail(error.what());
  }
  if (alignment < 1 || alignment > static_cast<std::int64_t>(kMaxAlignment) ||
      (alignment & (alignment - 1)) != 0)
    fail(fmt::format("its {} is {}, expected a power of two up to {}", gguf::kAlignmentKey,
                     alignment, kMaxAlignment));
  return static_cast<std::uint64_t>(alignment);
}

void GgufReader::check_layout() const {
  const std::uint64_t data_bytes = size_ - std::min(size_, data_start_);
  const std::uint64_t align = alignment();
  std::vector<const GgufOutline*> order;
  std::set<std::string_view> names;
  for (const GgufOutline& outline : outlines_) {
    const std::string what = fmt::format("tensor {}", quoted_json(outline.name));
    if (!names.insert(outline.name).second) fail(what + " stands there twice");
    if (outline.begin % align != 0)
      fail(fmt::format("{} begins at byte {} of the data, expected a multiple of {}", what,
                       outline.begin, align));
    if (outline.begin > data_bytes || outline.bytes > data_bytes - outline.begin)
      fail(fmt::format("{} needs {} bytes from byte {} of {} bytes of data on", what, outline.bytes,
                       outline.begin, data_bytes));
    order.push_back(&outline);
  }
  std::sort(order.begin(), order.end(), [](const auto* a, const auto* b) {
    return std::pair(a->begin, a->bytes) < std::pair(b->begin, b->bytes);
  });
  for (std::size_t i = 1; i < order.size(); ++i)
    if (order[i]->begin < order[i - 1]->begin + order[i - 1]->bytes)
      fail(fmt::format("the tensors {} and {} overlap", quoted_json(order[i - 1]->name),
                       quoted_json(order[i]->name)));
}

void GgufReader::read() {
  check_start();
  const std::uint64_t tensors = count(kLeastOutlineBytes, "its number of tensors");
  const std::uint64_t entries = count(kLeastEntryBytes, "its number of metadata");
  for (std::uint64_t i = 0; i < entries; ++i) read_entry(i);
  for (std::uint64_t i = 0; i < tensors; ++i) read_outline(i);
  data_start_ = gguf::aligned(at_, alignment());
  check_layout();
  window_ = {};
}

torch::ScalarType dtype_read_of(GgufType type) {
  if (type == GgufType::kF16) return torch::kHalf;
  return type == GgufType::kBF16 ? torch::kBFloat16 : torch::kFloat;
}

Tensor GgufReader::tensor(const GgufOutline& outline) const {
  const std::uint64_t from = data_start_ + outline.begin;
  if (outline.type == GgufType::kQ8_0) {
    const Tensor blocks =
        torch::empty({static_cast<std::int64_t>(outline.bytes)}, torch::dtype(torch::kByte));
    if (outline.bytes > 0) file_.read_at(from, blocks.mutable_data_ptr(), outline.bytes);
    return dequantize_q8_0(blocks, outline.sizes);
  }
  Tensor values = torch::empty(outline.sizes, torch::dtype(dtype_read_of(outline.type)));
  if (outline.bytes > 0) file_.read_at(from, values.mutable_data_ptr(), outline.bytes);
  return values;
}

}  // namespace

GgufFile open_gguf(const std::filesystem::path& path) {
  const auto reader = std::make_shared<GgufReader>(path);
  reader->read();
  GgufFile result{.metadata = reader->take_metadata()};
  for (const GgufOutline& outline : reader->outlines()) {
    result.tensors.tensors.emplace(
        outline.name, torch::empty(outline.sizes,
                                   torch::dtype(dtype_read_of(outline.type)).device(torch::kMeta)));
    result.tensors.lazy.emplace(outline.name,
                                [reader, &outline] { return reader->tensor(outline); });
    result.types.emplace(outline.name, outline.type);
  }
  return result;
}

}  // namespace halftone
