// SPDX-License-Identifier: Apache-2.0
// GGUF, the file format of llama.cpp: "GGUF", a version, the numbers of tensors and of metadata,
// the metadata (key, type, value), an outline of each tensor (name, sizes, type, offset), then the
// tensors' bytes, each from a multiple of `general.alignment` on. All of it is little-endian.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "halftone/core/state_dict.h"

namespace halftone {

class AtomicFile;

/// The types of a tensor's numbers that are read and written here, as the file counts them.
enum class GgufType : std::uint32_t { kF32 = 0, kF16 = 1, kQ8_0 = 8, kBF16 = 30 };

/// Values of one type. The index of an alternative is the number of the type in the file.
using GgufArray =
    std::variant<std::vector<std::uint8_t>, std::vector<std::int8_t>, std::vector<std::uint16_t>,
                 std::vector<std::int16_t>, std::vector<std::uint32_t>, std::vector<std::int32_t>,
                 std::vector<float>, std::vector<bool>, std::vector<std::string>, std::monostate,
                 std::vector<std::uint64_t>, std::vector<std::int64_t>, std::vector<double>>;
/// A value of the metadata; the same holds of its index.
using GgufValue = std::variant<std::uint8_t, std::int8_t, std::uint16_t, std::int16_t,
                               std::uint32_t, std::int32_t, float, bool, std::string, GgufArray,
                               std::uint64_t, std::int64_t, double>;

/// The metadata by key, written in the order of the keys.
class GgufMetadata {
 public:
  /// Replaces what stands under `key`.
  void set(const std::string& key, GgufValue value) { values_[key] = std::move(value); }
  bool contains(const std::string& key) const { return values_.contains(key); }
  const std::map<std::string, GgufValue>& values() const { return values_; }

  /// What stands under `key`. Each throws UserError, which names the key, when it is missing or of
  /// another type. An integer may be of any width, a number an integer as well.
  std::int64_t integer(const std::string& key) const;
  double number(const std::string& key) const;
  bool boolean(const std::string& key) const;
  const std::string& text(const std::string& key) const;
  const std::vector<std::string>& texts(const std::string& key) const;
  std::vector<std::int64_t> integers(const std::string& key) const;

 private:
  std::map<std::string, GgufValue> values_;
};

struct GgufFile {
  GgufMetadata metadata;
  StateDict tensors;                      // lazy; fp32, fp16 and bf16, blocks of Q8_0 as fp32
  std::map<std::string, GgufType> types;  // of the tensors in the file
};

/// Opens a file of version 2 or 3. The sizes of a tensor are turned around, as LibTorch has them:
/// a matrix is (rows, columns). The file is taken as hostile: whatever is wrong with it is a
/// UserError that names the file and the place. One of a type that GgufType lacks is refused.
GgufFile open_gguf(const std::filesystem::path& path);

struct GgufTensor {
  torch::Tensor values;  // of a floating-point dtype, on any device
  GgufType type = GgufType::kF32;
};

/// Writes version 3 to `path`, replacing the file as a whole or not at all (see atomic_file.h for
/// the errors). Numbers are converted to their type tensor by tensor, rounded to the nearest.
/// Throws c10::Error for a name of 64 bytes or more, for more than four dimensions, for what
/// quantize_q8_0() refuses and for a tensor that is lazy.
void save_gguf(const std::filesystem::path& path, const GgufMetadata& metadata,
               const std::map<std::string, GgufTensor>& tensors);

/// "F32", "Q8_0"...
std::string_view gguf_type_name(GgufType type);

/// Bytes that `count` numbers take in a file; a multiple of 32 for Q8_0.
std::uint64_t gguf_bytes(GgufType type, std::uint64_t count);

}  // namespace halftone
