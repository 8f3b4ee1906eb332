// SPDX-License-Identifier: Apache-2.0
// Reads a golden written by our own script; the library's reader of foreign files is tested in io.
#pragma once

#include <torch/types.h>

#include <fstream>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>
#include <string>

#include "halftone/core/state_dict.h"
#include "support/paths.h"

namespace halftone::test {

struct GoldenFile {
  std::map<std::string, torch::Tensor> tensors;
  nlohmann::json config;
};

/// The golden's tensors whose names start with `prefix`, without it.
inline StateDict part_of(const GoldenFile& golden, const std::string& prefix) {
  StateDict part;
  for (const auto& [name, tensor] : golden.tensors)
    if (name.starts_with(prefix)) part.tensors[name.substr(prefix.size())] = tensor;
  return part;
}

inline GoldenFile read_golden(const std::string& name) {
  std::ifstream file(std::string(kGoldenDir) + "/" + name, std::ios::binary);
  const std::string bytes{std::istreambuf_iterator<char>(file), {}};
  std::uint64_t header_size = 0;
  std::copy_n(bytes.data(), sizeof header_size, reinterpret_cast<char*>(&header_size));
  const auto header = nlohmann::json::parse(bytes.substr(8, header_size));
  const std::map<std::string, torch::ScalarType> dtypes{{"F32", torch::kFloat},
                                                        {"F64", torch::kDouble},
                                                        {"BF16", torch::kBFloat16},
                                                        {"I64", torch::kLong}};
  GoldenFile golden;
  for (const auto& [key, entry] : header.items()) {
    if (key == "__metadata__") continue;
    const auto shape = entry["shape"].get<std::vector<std::int64_t>>();
    torch::Tensor tensor = torch::empty(shape, dtypes.at(entry["dtype"]));
    const std::size_t begin = 8 + header_size + entry["data_offsets"][0].get<std::size_t>();
    std::copy_n(bytes.data() + begin, tensor.nbytes(), static_cast<char*>(tensor.data_ptr()));
    golden.tensors[key] = tensor;
  }
  golden.config = nlohmann::json::parse(header["__metadata__"]["config"].get<std::string>());
  return golden;
}

}  // namespace halftone::test
