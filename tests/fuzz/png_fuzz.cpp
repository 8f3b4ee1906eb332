// SPDX-License-Identifier: Apache-2.0
// Any bytes as a PNG file: a picture that reads the same when it is written, or a UserError.
#include "fuzz_check.h"
#include "halftone/media/png_file.h"
#include "memory_folder.h"
#include "png_checksums.h"
#include "support/memory_file.h"

namespace {

constexpr std::int64_t kMaxPixels = 1 << 20;

void check_written(const torch::Tensor& picture) {
  const std::filesystem::path path = halftone::test::memory_folder() / "written.png";
  halftone::write_png(path, picture);
  halftone::test::require(halftone::read_png(path).equal(picture),
                          "a picture is written as it was read");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t bytes) {
  const std::string fixed = halftone::test::with_png_checksums(data, bytes);
  const halftone::test::MemoryFile file(fixed.data(), fixed.size());
  torch::Tensor picture;
  if (halftone::test::succeeds([&] { picture = halftone::read_png(file.path(), kMaxPixels); }))
    halftone::test::must_succeed([&] { check_written(picture); });
  return 0;
}
