// SPDX-License-Identifier: Apache-2.0
// Any bytes as a font of colour emoji: pictures whose colours were multiplied by their alpha, or a
// UserError.
#include "fuzz_check.h"
#include "halftone/media/emoji_font.h"
#include "png_checksums.h"
#include "support/memory_file.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t bytes) {
  const std::string fixed = halftone::test::with_png_checksums(data, bytes);
  const halftone::test::MemoryFile file(fixed.data(), fixed.size());
  halftone::test::succeeds([&] {
    const halftone::EmojiFont font(file.path());
    for (const char* text : {"😀", "❤", "😀❤", "👋🏿", "a\xFF", ""})
      if (const auto glyph = font.find(text)) {
        torch::Tensor picture;
        if (halftone::test::succeeds([&] { picture = font.picture(*glyph); }))
          halftone::test::require(
              picture.dim() == 3 && picture.size(0) == 4 && picture.scalar_type() == torch::kByte,
              "a picture has four channels");
      }
  });
  return 0;
}
