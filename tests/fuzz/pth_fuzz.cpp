// SPDX-License-Identifier: Apache-2.0
// Any bytes as a file of torch.save: tensors or a UserError.
#include "halftone/core/error.h"
#include "halftone/io/pth.h"
#include "support/memory_file.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t bytes) {
  const halftone::test::MemoryFile file(data, bytes);
  try {
    halftone::open_pth(file.path()).read_all();
  } catch (const halftone::UserError&) {
  }
  return 0;
}
