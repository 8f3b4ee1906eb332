// SPDX-License-Identifier: Apache-2.0
#include "halftone/io/safetensors.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>
#include <vector>

#include "halftone/core/error.h"
#include "halftone/core/text.h"
#include "halftone/io/dense_bytes.h"
#include "halftone/system/atomic_file.h"
#include "halftone/system/file.h"
#include "halftone/system/file_memory.h"
#include "halftone/system/json_reader_impl.h"

namespace halftone {
namespace {

using nlohmann::json;

constexpr const char* kMetadata = "__metadata__";
constexpr std::size_t kLengthBytes = 8;
constexpr std::uint64_t kMaxHeaderBytes = 100'000'000;  // the reference implementation's limit
constexpr std::size_t kAlignment = 64;
constexpr std::size_t kMaxDimensions = 64;
constexpr int kMaxJsonDepth = 3;  // header, tensor, shape

struct DtypeName {
  std::string_view name;
  torch::ScalarType dtype;
};

constexpr std::array<DtypeName, 14> kDtypes = {{{"F64", torch::kDouble},
                                                {"F32", torch::kFloat},
                                                {"F16", torch::kHalf},
                                                {"BF16", torch::kBFloat16},
                                                {"I64", torch::kLong},
                                                {"I32", torch::kInt},
                                                {"I16", torch::kShort},
                                                {"I8", torch::kChar},
                                                {"U8", torch::kByte},
                                                {"U16", torch::kUInt16},
                                                {"U32", torch::kUInt32},
                                                {"BOOL", torch::kBool},
                                                {"F8_E4M3", torch::kFloat8_e4m3fn},
                                                {"F8_E5M2", torch::kFloat8_e5m2}}};

struct Entry {
  std::string name;
  torch::ScalarType dtype = torch::kFloat;
  std::vector<std::int64_t> shape;
  std::uint64_t begin = 0;  // bytes from the start of the data
  std::uint64_t end = 0;
};

// Reads one file's header. Every complaint names the file.
class HeaderReader {
 public:
  explicit HeaderReader(const std::filesystem::path& path)
      : path_(path.string()), file_(File::open_regular(path)) {}

  void read();

  const File& file() const { return file_; }
  std::uint64_t data_start() const { return data_start_; }
  const std::vector<Entry>& entries() const { return entries_; }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }

  [[noreturn]] void fail(const std::string& what) const {
    throw UserError(fmt::format(
        "'{}' is not a valid safetensors file: {}; it may be damaged or cut off", path_, what));
  }

 private:
  std::string path_;
  File file_;
  std::uint64_t data_start_ = 0;
  std::uint64_t data_bytes_ = 0;
  std::vector<Entry> entries_;
  std::map<std::string, std::string> metadata_;

  std::string header_text();
  json parse(const std::string& text) const;
  void add_metadata(const json& value);
  void add_entry(const std::string& name, const json& value);
  std::uint64_t unsigned_number(const json& value, const std::string& place) const;
  std::uint64_t byte_count(const Entry& entry) const;
  void check_layout();
};

std::string HeaderReader::header_text() {
  const std::uint64_t size = file_.size();
  if (size < kLengthBytes)
    fail(fmt::format("expected at least {} bytes, found {}", kLengthBytes, size));
  std::uint64_t length = 0;
  file_.read_at(0, &length, kLengthBytes);
  if (length > kMaxHeaderBytes)
    fail(fmt::format("its first 8 bytes declare a header of {} bytes, more than the {} allowed",
                     length, kMaxHeaderBytes));
  if (length > size - kLengthBytes)
    fail(fmt::format("its header should end at byte {}, but the file ends at byte {}",
                     kLengthBytes + length, size));
  std::string text(length, '\0');
  file_.read_at(kLengthBytes, text.data(), text.size());
  data_start_ = kLengthBytes + length;
  data_bytes_ = size - data_start_;
  return text;
}

json HeaderReader::parse(const std::string& text) const {
  if (text.empty() || text.front() != '{') fail("its header does not begin with '{' at byte 8");
  return parse_json(text, fmt::format("'{}' is not a valid safetensors file: its header", path_),
                    {.max_bytes = kMaxHeaderBytes, .max_depth = kMaxJsonDepth, .unique_keys = true})
      .value;
}

void HeaderReader::add_metadata(const json& value) {
  if (!value.is_object()) fail("__metadata__ is not an object");
  for (const auto& [key, text] : value.items()) {
    if (!text.is_string())
      fail(fmt::format("__metadata__ entry {} is not a string", quoted_json(key)));
    metadata_.emplace(key, text.get<std::string>());
  }
}

std::uint64_t HeaderReader::unsigned_number(const json& value, const std::string& place) const {
  if (!value.is_number_unsigned()) fail(fmt::format("{} must be an integer of 0 or more", place));
  return value.get<std::uint64_t>();
}

std::uint64_t HeaderReader::byte_count(const Entry& entry) const {
  const std::optional<std::uint64_t> bytes = dense_bytes(entry.shape, entry.dtype);
  if (!bytes) fail(fmt::format("the shape of tensor {} is too large", quoted_json(entry.name)));
  return *bytes;
}

void HeaderReader::add_entry(const std::string& name, const json& value) {
  const auto field = [&](const char* key, json::value_t type) -> const json& {
    if (!value.is_object() || !value.contains(key) || value.at(key).type() != type)
      fail(fmt::format("tensor {} has no valid '{}'", quoted_json(name), key));
    return value.at(key);
  };
  const auto& dtype = field("dtype", json::value_t::string).get_ref<const std::string&>();
  const json& shape = field("shape", json::value_t::array);
  const json& offsets = field("data_offsets", json::value_t::array);
  const auto* const known = std::find_if(kDtypes.begin(), kDtypes.end(),
                                         [&](const DtypeName& d) { return d.name == dtype; });
  if (known == kDtypes.end())
    fail(fmt::format("tensor {} has the dtype {}, which is not supported", quoted_json(name),
                     quoted_json(dtype)));
  if (shape.size() > kMaxDimensions)
    fail(fmt::format("tensor {} has {} dimensions, more than {}", quoted_json(name), shape.size(),
                     kMaxDimensions));
  if (offsets.size() != 2)
    fail(fmt::format("tensor {} has no valid 'data_offsets'", quoted_json(name)));

  Entry entry{.name = name, .dtype = known->dtype};
  for (const json& size : shape) {
    const std::uint64_t number =
        unsigned_number(size, fmt::format("'shape' of {}", quoted_json(name)));
    if (number > static_cast<std::uint64_t>(INT64_MAX))
      fail(fmt::format("the shape of tensor {} is too large", quoted_json(name)));
    entry.shape.push_back(static_cast<std::int64_t>(number));
  }
  const std::string place = fmt::format("'data_offsets' of {}", quoted_json(name));
  entry.begin = unsigned_number(offsets[0], place);
  entry.end = unsigned_number(offsets[1], place);
  if (entry.begin > entry.end || entry.end > data_bytes_)
    fail(fmt::format("tensor {} lies at [{}, {}) of {} bytes of data", quoted_json(name),
                     entry.begin, entry.end, data_bytes_));
  if (const std::uint64_t bytes = byte_count(entry); bytes != entry.end - entry.begin)
    fail(fmt::format("tensor {} has {} bytes of data, but its dtype and shape need {}",
                     quoted_json(name), entry.end - entry.begin, bytes));
  entries_.push_back(std::move(entry));
}

void HeaderReader::check_layout() {
  std::sort(entries_.begin(), entries_.end(), [](const Entry& a, const Entry& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  std::uint64_t at = 0;
  for (const Entry& entry : entries_) {
    if (entry.begin != at)
      fail(fmt::format("tensor {} begins at byte {} of the data, expected {} ({})",
                       quoted_json(entry.name), entry.begin, at,
                       entry.begin < at ? "tensors overlap" : "there is a hole"));
    at = entry.end;
  }
  if (at != data_bytes_)
    fail(fmt::format("its tensors end at byte {} of the data, but the data has {} bytes", at,
                     data_bytes_));
}

void HeaderReader::read() {
  const std::string text = header_text();
  const json header = parse(text);
  for (const auto& [name, value] : header.items()) {
    if (name == kMetadata)
      add_metadata(value);
    else
      add_entry(name, value);
  }
  check_layout();
}

torch::Tensor read_tensor(const HeaderReader& reader, const Entry& entry) {
  torch::Tensor tensor = torch::empty(entry.shape, torch::dtype(entry.dtype));
  if (entry.end == entry.begin) return tensor;
  reader.file().read_at(reader.data_start() + entry.begin, tensor.mutable_data_ptr(),
                        static_cast<std::size_t>(entry.end - entry.begin));
  if (entry.dtype == torch::kBool) {  // any other byte in a bool is undefined behaviour in C++
    const auto* bytes = static_cast<const unsigned char*>(tensor.const_data_ptr());
    if (std::any_of(bytes, bytes + tensor.numel(), [](unsigned char b) { return b > 1; }))
      reader.fail(fmt::format("tensor {} of dtype BOOL holds bytes other than 0 and 1",
                              quoted_json(entry.name)));
  }
  return tensor;
}

std::string_view dtype_name(const std::string& name, torch::ScalarType dtype) {
  for (const DtypeName& known : kDtypes)
    if (known.dtype == dtype) return known.name;
  HALFTONE_CHECK(false, "[save_safetensors] tensor '", name, "' has the dtype ", dtype,
                 ", which the format lacks");
}

// Widest elements first, so that each tensor starts at a multiple of its element's size.
std::vector<const std::pair<const std::string, torch::Tensor>*> storage_order(
    const std::map<std::string, torch::Tensor>& tensors) {
  std::vector<const std::pair<const std::string, torch::Tensor>*> order;
  for (const auto& entry : tensors) order.push_back(&entry);
  std::stable_sort(order.begin(), order.end(), [](const auto* a, const auto* b) {
    return a->second.element_size() > b->second.element_size();
  });
  return order;
}

// In pieces, since what lies in a file is in memory only while it is written.
void write_bytes(AtomicFile& file, const torch::Tensor& contiguous) {
  constexpr std::int64_t kPiece = std::int64_t{16} << 20U;
  const torch::Tensor bytes = contiguous.view({-1}).view(torch::kByte);
  for (std::int64_t begin = 0; begin < bytes.numel(); begin += kPiece) {
    const torch::Tensor piece = bytes.narrow(0, begin, std::min(kPiece, bytes.numel() - begin));
    file.write(piece.const_data_ptr(), piece.nbytes());
    release_pages(piece);
  }
}

std::string header_for(const std::map<std::string, torch::Tensor>& tensors,
                       const std::map<std::string, std::string>& metadata) {
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata.empty()) header[kMetadata] = metadata;
  std::uint64_t at = 0;
  for (const auto* entry : storage_order(tensors)) {
    const auto& [name, tensor] = *entry;
    HALFTONE_CHECK(name != kMetadata && !find_invalid_utf8(name),
                   "[save_safetensors] a tensor can't be called '", name, "'");
    HALFTONE_CHECK(tensor.defined() && tensor.layout() == torch::kStrided,
                   "[save_safetensors] expected a dense tensor as '", name, "'");
    HALFTONE_CHECK(!tensor.is_meta(), "[save_safetensors] '", name,
                   "' has no values yet: read it with StateDict::tensor() first");
    const std::uint64_t end = at + tensor.nbytes();
    header[name] = {{"dtype", dtype_name(name, tensor.scalar_type())},
                    {"shape", tensor.sizes().vec()},
                    {"data_offsets", {at, end}}};
    at = end;
  }
  std::string text = header.dump(-1, ' ', false, json::error_handler_t::replace);
  const std::size_t whole = kLengthBytes + text.size();
  text.append((kAlignment - whole % kAlignment) % kAlignment, ' ');
  return text;
}

}  // namespace

StateDict load_safetensors(const std::filesystem::path& path) {
  StateDict result = open_safetensors(path);
  result.read_all();
  return result;
}

StateDict open_safetensors(const std::filesystem::path& path) {
  const auto reader = std::make_shared<HeaderReader>(path);
  reader->read();
  StateDict result;
  for (const Entry& entry : reader->entries()) {
    result.tensors.emplace(
        entry.name, torch::empty(entry.shape, torch::dtype(entry.dtype).device(torch::kMeta)));
    result.lazy.emplace(entry.name, [reader, &entry] { return read_tensor(*reader, entry); });
  }
  for (const auto& [key, text] : reader->metadata()) result.values.emplace(key, text);
  return result;
}

void save_safetensors(AtomicFile& file, const std::map<std::string, torch::Tensor>& tensors,
                      const std::map<std::string, std::string>& metadata) {
  const std::string header = header_for(tensors, metadata);
  const std::uint64_t length = header.size();
  file.write(&length, kLengthBytes);
  file.write(header);
  for (const auto* entry : storage_order(tensors)) {
    write_bytes(file, entry->second.detach().to(torch::kCPU).contiguous());
  }
}

void save_safetensors(const std::filesystem::path& path,
                      const std::map<std::string, torch::Tensor>& tensors,
                      const std::map<std::string, std::string>& metadata) {
  AtomicFile file(path);
  save_safetensors(file, tensors, metadata);
  file.commit();
}

}  // namespace halftone
