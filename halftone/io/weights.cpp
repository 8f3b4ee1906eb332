// SPDX-License-Identifier: Apache-2.0
#include "halftone/io/weights.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <system_error>

#include "halftone/core/error.h"
#include "halftone/io/pth.h"
#include "halftone/io/safetensors.h"
#include "halftone/io/zip_archive.h"
#include "halftone/system/json_reader_impl.h"

namespace halftone {
namespace fs = std::filesystem;
namespace {

constexpr std::array<std::string_view, 4> kFolderFiles = {
    "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin",
    "pytorch_model.bin.index.json"};
constexpr std::array<std::string_view, 4> kTorchExtensions = {".pth", ".pt", ".bin", ".ckpt"};
constexpr std::string_view kIndexEnd = ".index.json";

bool is_torch_file(const fs::path& path) {
  const std::string extension = path.extension().string();
  return std::find(kTorchExtensions.begin(), kTorchExtensions.end(), extension) !=
             kTorchExtensions.end() ||
         (extension != ".safetensors" && begins_as_zip(path));
}

StateDict open_file(const fs::path& path) {
  return is_torch_file(path) ? open_pth(path) : open_safetensors(path);
}

// Which file has which tensor, by an index of {"weight_map": {"name": "file"}}.
class ShardIndex {
 public:
  explicit ShardIndex(const fs::path& path)
      : path_(path), document_(read_json_file(path, {.max_depth = 8, .unique_keys = true})) {
    document_.root()["weight_map"].for_each_member(
        [&](const std::string& name, const JsonField& file) { add(name, file); });
    if (shard_of_.empty())
      throw UserError(fmt::format("{}: weight_map names no tensor", path.string()));
  }

  StateDict open() const {
    StateDict all;
    for (const std::string& shard : shards_) add_shard(all, shard);
    return all;
  }

 private:
  fs::path path_;
  JsonDocument document_;
  std::map<std::string, std::string> shard_of_;
  std::set<std::string> shards_;

  void add(const std::string& name, const JsonField& file) {
    const std::string shard = file.as_string();
    const bool is_plain = !shard.empty() && shard != "." && shard != ".." &&
                          shard.find_first_of(std::string_view("/\\\0", 3)) == std::string::npos;
    if (!is_plain) file.fail("must be the name of a file beside the index");
    shards_.insert(shard);
    shard_of_.emplace(name, shard);
  }

  void add_shard(StateDict& all, const std::string& shard) const {
    const fs::path path = path_.parent_path() / shard;
    std::error_code error;
    if (!fs::exists(path, error))
      throw UserError(fmt::format("'{}' is missing, which '{}' names; copy every shard beside it",
                                  path.string(), path_.string()));
    const StateDict part = open_file(path);
    for (const auto& [name, in] : shard_of_)
      if (in == shard && !part.tensors.contains(name))
        throw UserError(fmt::format("'{}' lacks the tensor {}, which '{}' says is there",
                                    path.string(), quoted_json(name), path_.string()));
    for (const auto& [name, tensor] : part.tensors)
      if (all.tensors.contains(name))
        throw UserError(fmt::format("the tensor {} is in '{}' and in another shard of '{}'",
                                    quoted_json(name), path.string(), path_.string()));
    all.insert("", part);
  }
};

}  // namespace

fs::path weights_file(const fs::path& path) {
  std::error_code error;
  if (!fs::is_directory(path, error)) return path;
  for (const std::string_view name : kFolderFiles)
    if (fs::exists(path / name, error)) return path / name;
  throw UserError(fmt::format(
      "'{}' has no weights: expected model.safetensors or pytorch_model.bin, or one of their "
      "indices (.index.json) with its shards",
      path.string()));
}

StateDict open_weights(const fs::path& path) {
  const fs::path file = weights_file(path);
  if (file.filename().string().ends_with(kIndexEnd)) return ShardIndex(file).open();
  return open_file(file);
}

}  // namespace halftone
