// SPDX-License-Identifier: Apache-2.0
// One tensor of a file of torch.save: from the call that would rebuild it to its elements.
#pragma once

#include <c10/core/Storage.h>
#include <torch/types.h>

#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <tuple>
#include <vector>

#include "halftone/io/pickle_reader.h"
#include "halftone/io/zip_archive.h"

namespace halftone {

/// Where a tensor lies in a storage's entry. Its elements lie within `begin` and `end`, and are no
/// more than fit there.
struct PthTensor {
  std::string name;
  const ZipEntry* storage = nullptr;
  torch::ScalarType dtype = torch::kFloat;
  std::uint64_t begin = 0;  // bytes
  std::uint64_t end = 0;
  std::vector<std::int64_t> sizes;
  std::vector<std::int64_t> strides;  // elements
};

/// The archive and the names of its storages.
class PthArchive {
 public:
  /// Throws UserError, also for a file that is no such archive.
  explicit PthArchive(const std::filesystem::path& path);

  const std::string& path() const { return path_; }
  Pickle read_pickle() const;

  static bool is_tensor(const PickleObject& object);
  /// Throws UserError unless the tensor, for which is_tensor() holds, lies within its storage.
  PthTensor tensor(const std::string& name, const PickleObject& object) const;
  /// Throws UserError for a checksum that is wrong and for a bool that is neither 0 nor 1.
  torch::Tensor read(const PthTensor& tensor) const;

  [[noreturn]] void fail(const std::string& what) const;

 private:
  using Range = std::tuple<const ZipEntry*, std::uint64_t, std::uint64_t>;

  std::string path_;
  ZipArchive zip_;
  std::string prefix_;  // "NAME/"
  mutable std::mutex mutex_;
  mutable std::map<Range, c10::weak_intrusive_ptr<c10::StorageImpl>> in_memory_;

  std::string find_prefix() const;
  void check_byte_order() const;
  void place_storage(PthTensor& tensor, const PickleObject& id, const PickleObject* dtype) const;
  void place_elements(PthTensor& tensor, const PickleObject& offset) const;
  std::vector<std::int64_t> integers(const PthTensor& tensor, const PickleObject& object) const;
  torch::Tensor bytes_of(const PthTensor& tensor) const;
};

}  // namespace halftone
