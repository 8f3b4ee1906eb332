// SPDX-License-Identifier: Apache-2.0
// Any bytes as a safetensors file: tensors that read the same when they are written again, or a
// UserError.
#include <map>
#include <string>

#include "fuzz_check.h"
#include "halftone/io/safetensors.h"
#include "halftone/system/file.h"
#include "memory_folder.h"
#include "support/memory_file.h"

namespace {

using halftone::StateDict;
using halftone::test::MemoryFile;
using halftone::test::must_succeed;
using halftone::test::require;
using halftone::test::succeeds;

std::string written(const StateDict& state) {
  std::map<std::string, std::string> metadata;
  for (const auto& [key, value] : state.values) metadata[key] = std::get<std::string>(value);
  const std::filesystem::path path = halftone::test::memory_folder() / "written.safetensors";
  halftone::save_safetensors(path, state.tensors, metadata);
  return halftone::read_file(path, std::uint64_t{1} << 30U);
}

void check_written(const StateDict& state) {
  const std::string bytes = written(state);
  const MemoryFile copy(bytes.data(), bytes.size());
  require(written(halftone::load_safetensors(copy.path())) == bytes,
          "a file is written as it was read");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t bytes) {
  const MemoryFile file(data, bytes);
  StateDict state;
  if (succeeds([&] { state = halftone::load_safetensors(file.path()); }))
    must_succeed([&] { check_written(state); });
  return 0;
}
