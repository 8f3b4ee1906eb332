// SPDX-License-Identifier: Apache-2.0
// Any bytes as the pickle of a file of torch.save that is right otherwise, and has the storages "0"
// and "1": mutations of a whole archive hardly ever reach a pickle.
#include "halftone/core/error.h"
#include "halftone/io/pth.h"
#include "support/memory_file.h"
#include "support/torch_file.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t bytes) {
  const std::string archive =
      halftone::test::zip_of({{"a/data.pkl", {reinterpret_cast<const char*>(data), bytes}},
                              {"a/data/0", std::string(24, '\1')},
                              {"a/data/1", std::string(8, '\0')}},
                             {.has_checksums = false});
  const halftone::test::MemoryFile file(archive.data(), archive.size());
  try {
    halftone::open_pth(file.path()).read_all();
  } catch (const halftone::UserError&) {
  }
  return 0;
}
