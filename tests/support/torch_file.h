// SPDX-License-Identifier: Apache-2.0
// The bytes of zip archives, pickles and files of torch.save, right or wrong as a test wants them.
#pragma once

#include <torch/types.h>
#include <zlib.h>

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace halftone::test {

/// A number's bytes, little-endian.
template <class T>
std::string bytes_of_number(T number) {
  return {reinterpret_cast<const char*>(&number), sizeof number};
}
inline std::string number16(std::size_t number) {
  return bytes_of_number(static_cast<std::uint16_t>(number));
}
inline std::string number32(std::size_t number) {
  return bytes_of_number(static_cast<std::uint32_t>(number));
}
inline std::string number64(std::size_t number) {
  return bytes_of_number(static_cast<std::uint64_t>(number));
}

struct ZipPart {
  std::string name;
  std::string bytes;
};

struct ZipHow {
  bool is_zip64 = false;  // every number that can be is in a zip64 field
  bool has_checksums = true;
  std::string comment;
};

/// An archive of stored entries, in their order.
inline std::string zip_of(const std::vector<ZipPart>& parts, const ZipHow& how = {}) {
  std::string file;
  std::string directory;
  for (const auto& [name, bytes] : parts) {
    const std::size_t header = file.size();
    const auto crc = how.has_checksums
                         ? crc32_z(0, reinterpret_cast<const Bytef*>(bytes.data()), bytes.size())
                         : 0;
    const std::string sizes = number32(bytes.size()) + number32(bytes.size());
    const std::string in_64 = how.is_zip64 ? number32(0xFFFFFFFF) + number32(0xFFFFFFFF) : sizes;
    const std::string extra = how.is_zip64 ? number16(1) + number16(24) + number64(bytes.size()) +
                                                 number64(bytes.size()) + number64(header)
                                           : "";
    const std::string gap = "FB" + number16(3) + "ZZZ";  // as torch.save aligns data
    file += "PK\3\4" + number16(0) + number16(0) + number16(0) + number32(0) + number32(crc) +
            sizes + number16(name.size()) + number16(gap.size()) + name + gap + bytes;
    directory += "PK\1\2" + number16(0) + number16(0) + number16(0) + number16(0) + number32(0) +
                 number32(crc) + in_64 + number16(name.size()) + number16(extra.size()) +
                 number16(0) + number16(0) + number16(0) + number32(0) +
                 number32(how.is_zip64 ? 0xFFFFFFFF : header) + name + extra;
  }
  const std::size_t begin = file.size();
  file += directory;
  const std::string count = number16(how.is_zip64 ? 0xFFFF : parts.size());
  if (how.is_zip64) {
    const std::size_t end = file.size();
    file += "PK\6\6" + number64(44) + number16(0) + number16(0) + number32(0) + number32(0) +
            number64(parts.size()) + number64(parts.size()) + number64(directory.size()) +
            number64(begin);
    file += "PK\6\7" + number32(0) + number64(end) + number32(1);
  }
  return file + "PK\5\6" + number32(0) + count + count +
         number32(how.is_zip64 ? 0xFFFFFFFF : directory.size()) +
         number32(how.is_zip64 ? 0xFFFFFFFF : begin) + number16(how.comment.size()) + how.comment;
}

/// Pieces of a pickle, each of which leaves one object.
namespace pickle {

inline std::string text(const std::string& value) { return "X" + number32(value.size()) + value; }
inline std::string integer(std::int64_t value) { return "\x8a\x08" + bytes_of_number(value); }
inline std::string global(const std::string& module, const std::string& name) {
  return "c" + module + "\n" + name + "\n";
}
inline std::string joined(const std::vector<std::string>& objects) {
  std::string all;
  for (const std::string& object : objects) all += object;
  return all;
}
inline std::string tuple(const std::vector<std::string>& objects) {
  return "(" + joined(objects) + "t";
}
inline std::string integers(const std::vector<std::int64_t>& values) {
  std::vector<std::string> objects;
  for (const std::int64_t value : values) objects.push_back(integer(value));
  return tuple(objects);
}
/// Of key, value, key, value...
inline std::string dict(const std::vector<std::string>& objects) {
  return "}(" + joined(objects) + "u";
}
inline std::string ordered_dict(const std::vector<std::string>& objects) {
  return global("collections", "OrderedDict") + ")R(" + joined(objects) + "u";
}
inline std::string call(const std::string& function, const std::vector<std::string>& arguments) {
  return function + tuple(arguments) + "R";
}
inline std::string program(const std::string& object) { return "\x80\2" + object + "."; }

struct Tensor {
  std::string storage = "FloatStorage";
  std::string key = "0";
  std::int64_t elements = 0;  // of the storage
  std::int64_t offset = 0;
  std::vector<std::int64_t> sizes;
  std::vector<std::int64_t> strides;
};

inline std::string storage(const Tensor& tensor) {
  return tuple({text("storage"), global("torch", tensor.storage), text(tensor.key), text("cuda:0"),
                integer(tensor.elements)}) +
         "Q";
}
inline std::string rebuilt(const Tensor& tensor) {
  return call(global("torch._utils", "_rebuild_tensor_v2"),
              {storage(tensor), integer(tensor.offset), integers(tensor.sizes),
               integers(tensor.strides), "\x89", ordered_dict({})});
}

}  // namespace pickle

/// A file of torch.save: its pickle's object, and the storages by key.
inline std::string torch_file(const std::string& object, const std::vector<ZipPart>& storages = {},
                              const ZipHow& how = {}) {
  std::vector<ZipPart> parts = {{"a/data.pkl", pickle::program(object)}, {"a/byteorder", "little"}};
  for (const auto& [key, bytes] : storages) parts.push_back({"a/data/" + key, bytes});
  return zip_of(parts, how);
}

/// A file of torch.save with a dict of these tensors, fp32, fp16 or bf16; `around` makes its object
/// of the dict.
template <class Around>
std::string torch_file_of(const std::map<std::string, torch::Tensor>& tensors, Around&& around) {
  std::vector<std::string> items;
  std::vector<ZipPart> storages;
  for (const auto& [name, tensor] : tensors) {
    const std::string key = std::to_string(storages.size());
    const torch::Tensor plain = tensor.detach().contiguous();
    const std::string storage = plain.scalar_type() == torch::kHalf       ? "HalfStorage"
                                : plain.scalar_type() == torch::kBFloat16 ? "BFloat16Storage"
                                                                          : "FloatStorage";
    items.push_back(pickle::text(name));
    items.push_back(pickle::rebuilt({.storage = storage,
                                     .key = key,
                                     .elements = plain.numel(),
                                     .sizes = plain.sizes().vec(),
                                     .strides = plain.strides().vec()}));
    storages.push_back({key, {static_cast<const char*>(plain.const_data_ptr()), plain.nbytes()}});
  }
  return torch_file(around(pickle::ordered_dict(items)), storages);
}
inline std::string torch_file_of(const std::map<std::string, torch::Tensor>& tensors) {
  return torch_file_of(tensors, [](const std::string& dict) { return dict; });
}

}  // namespace halftone::test
