// SPDX-License-Identifier: Apache-2.0
#include "halftone/data/record_file.h"

#include <ATen/ops/empty.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <bit>
#include <cstring>
#include <string_view>
#include <utility>

#include "halftone/core/error.h"
#include "halftone/data/npy_file.h"
#include "halftone/system/hash.h"

namespace halftone {
namespace {

static_assert(std::endian::native == std::endian::little, "records are copied as they stand");

std::uint64_t record_bytes_of(const RecordLayout& layout) {
  std::uint64_t bytes = torch::elementSize(layout.dtype);
  bool overflow = false;
  for (const std::int64_t size : layout.shape) {
    HALFTONE_CHECK(size >= 1, "[record_file] expected sizes from 1 on, got a size of ", size);
    overflow |= __builtin_mul_overflow(bytes, size, &bytes);
  }
  HALFTONE_CHECK(!overflow, "[record_file] expected records of fewer bytes than 2^64");
  return bytes;
}

std::string layout_text(const RecordLayout& layout) {
  return fmt::format("{} ({})", c10::toString(layout.dtype), fmt::join(layout.shape, ", "));
}

}  // namespace

RecordFile::RecordFile(const std::filesystem::path& path, RecordLayout layout)
    : RecordFile(path, std::make_shared<const MappedFile>(path), std::move(layout), 0) {}

RecordFile::RecordFile(const std::filesystem::path& path, std::shared_ptr<const MappedFile> file,
                       RecordLayout layout, std::uint64_t first_byte)
    : file_(std::move(file)),
      layout_(std::move(layout)),
      first_byte_(first_byte),
      record_bytes_(record_bytes_of(layout_)) {
  const std::uint64_t bytes = file_->size() - first_byte_;
  if (bytes == 0 || bytes % record_bytes_ != 0)
    throw UserError(fmt::format(
        "'{}' has {} bytes, expected one or more records of {} bytes each, {}; {} bytes are left "
        "over; name the dtype and shape that were written, or write the file again",
        path.string(), bytes, record_bytes_, layout_text(layout_), bytes % record_bytes_));
  size_ = static_cast<std::int64_t>(bytes / record_bytes_);
}

RecordFile RecordFile::npy(const std::filesystem::path& path) {
  auto file = std::make_shared<const MappedFile>(path);
  NpyHeader header = parse_npy_header(file->bytes(0, file->size()), file->size(), path);
  for (const std::int64_t size : header.shape)
    if (size == 0) header.shape.clear();
  if (header.shape.empty())
    throw UserError(fmt::format(
        "'{}' has no rows, expected an array (N, ...) with at least one element", path.string()));
  return {path,
          std::move(file),
          {header.dtype, {header.shape.begin() + 1, header.shape.end()}},
          header.first_byte};
}

std::string_view RecordFile::bytes_of(std::int64_t index) const {
  return file_->bytes(first_byte_ + static_cast<std::uint64_t>(index) * record_bytes_,
                      record_bytes_);
}

torch::Tensor RecordFile::get(std::int64_t index) const {
  HALFTONE_CHECK(index >= 0 && index < size_, "[record_file] expected an index from 0 to ",
                 size_ - 1, ", got ", index);
  const bool is_bool = layout_.dtype == torch::kBool;
  const torch::Tensor record = at::empty(layout_.shape, is_bool ? torch::kByte : layout_.dtype);
  const std::string_view bytes = bytes_of(index);
  std::memcpy(record.data_ptr(), bytes.data(), bytes.size());
  return is_bool ? record.ne(0) : record;
}

std::string RecordFile::fingerprint() const {
  Hasher hasher;
  for (const std::int64_t index : {std::int64_t{0}, size_ / 2, size_ - 1})
    hasher.update(bytes_of(index));
  return fmt::format("{} records of {} {:016x}", size_, layout_text(layout_), hasher.digest());
}

}  // namespace halftone
