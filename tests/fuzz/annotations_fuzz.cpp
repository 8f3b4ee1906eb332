// SPDX-License-Identifier: Apache-2.0
// Any bytes as an annotation file of CLDR: entries with names, or a UserError.
#include "fuzz_check.h"
#include "halftone/media/annotations.h"
#include "support/memory_file.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t bytes) {
  using halftone::test::require;
  const halftone::test::MemoryFile file(data, bytes);
  std::vector<halftone::Annotation> all;
  if (!halftone::test::succeeds([&] { all = halftone::read_annotations(file.path()); })) return 0;
  require(!all.empty(), "there is an entry");
  std::size_t text = 0;
  for (const halftone::Annotation& one : all) {
    require(!one.text.empty() && !one.name.empty(), "each has a text and a name");
    text += one.text.size() + one.name.size();
    for (const std::string& word : one.keywords) {
      require(!word.empty(), "no keyword is empty");
      text += word.size();
    }
  }
  require(text <= 3 * bytes, "no text comes from nowhere");
  return 0;
}
