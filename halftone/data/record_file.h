// SPDX-License-Identifier: Apache-2.0
// A data set on the disk: records of one size, one after another.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "halftone/system/mapped_file.h"

namespace halftone {

/// What each record holds: a tensor of `shape`, the last dimension running fastest, in the
/// machine's byte order (little endian).
struct RecordLayout {
  torch::ScalarType dtype = torch::kFloat;
  std::vector<std::int64_t> shape;  ///< empty: one element
};

/// The records of a file as samples for a DataLoader. They are read where they lie: no memory grows
/// with the file. Copies share it; every method is safe to call from several threads. The file is
/// mapped: MappedFile says what that cannot report.
class RecordFile {
 public:
  /// A file of nothing but records. Throws UserError that names the file and its bytes unless it
  /// holds one or more and no part of one; c10::Error for a layout without elements.
  RecordFile(const std::filesystem::path& path, RecordLayout layout);

  /// The rows of a .npy file (npy_file.h), whose array is (N, ...) with N >= 1.
  static RecordFile npy(const std::filesystem::path& path);

  const RecordLayout& layout() const { return layout_; }
  std::int64_t size() const { return size_; }
  /// A tensor of the layout, which is the caller's own. A byte of a bool other than 0 is true.
  /// REQUIRES 0 <= index < size().
  torch::Tensor get(std::int64_t index) const;
  /// Of the layout, how many there are, and the first, middle and last record: a run is not resumed
  /// on a file that differs there.
  std::string fingerprint() const;

 private:
  RecordFile(const std::filesystem::path& path, std::shared_ptr<const MappedFile> file,
             RecordLayout layout, std::uint64_t first_byte);
  std::string_view bytes_of(std::int64_t index) const;

  std::shared_ptr<const MappedFile> file_;
  RecordLayout layout_;
  std::uint64_t first_byte_ = 0;
  std::uint64_t record_bytes_ = 0;
  std::int64_t size_ = 0;
};

}  // namespace halftone
