// SPDX-License-Identifier: Apache-2.0
// Any bytes as a WAV file: a sound that is finite, can be resampled and reads the same when it was
// written once, or a UserError.
#include "fuzz_check.h"
#include "halftone/media/wav_file.h"
#include "memory_folder.h"
#include "support/memory_file.h"

namespace {

using halftone::Sound;
using halftone::test::require;

void check_sound(const std::filesystem::path& file, const Sound& sound) {
  require(sound.samples.dim() == 2 && sound.samples.numel() > 0, "there are samples");
  require(sound.samples.isfinite().all().item<bool>(), "the samples are finite");
  const std::int64_t frames = sound.samples.size(1);
  require(
      halftone::read_wav(file).samples.size(0) == (frames * 16'000 + sound.rate - 1) / sound.rate,
      "resampling keeps the duration");
  const std::filesystem::path path = halftone::test::memory_folder() / "written.wav";
  halftone::write_wav(path, sound);
  const Sound once = halftone::read_wav(path, {.rate = 0, .mono = false});
  halftone::write_wav(path, once);
  const Sound twice = halftone::read_wav(path, {.rate = 0, .mono = false});
  require(once.rate == sound.rate && once.samples.equal(twice.samples),
          "a sound is written as it was read");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t bytes) {
  const halftone::test::MemoryFile file(data, bytes);
  Sound sound;
  if (halftone::test::succeeds(
          [&] { sound = halftone::read_wav(file.path(), {.rate = 0, .mono = false}); }))
    halftone::test::must_succeed([&] { check_sound(file.path(), sound); });
  return 0;
}
