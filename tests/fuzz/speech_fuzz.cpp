// SPDX-License-Identifier: Apache-2.0
// Any bytes as the index of a data set of speech, that of spoken-names and that of asterisk-sounds:
// utterances whose sounds are as long as they say, or a UserError.
#include <filesystem>
#include <fstream>

#include "fuzz_check.h"
#include "halftone/media/speech_set.h"
#include "halftone/media/wav_file.h"
#include "memory_folder.h"

namespace {

namespace fs = std::filesystem;
using halftone::SpeechSet;
using halftone::test::require;

constexpr std::int64_t kFrames = 64;

/// A folder with one sound, called `name`.
fs::path folder_with(const std::string& folder, const std::string& name) {
  const fs::path path = halftone::test::memory_folder() / folder;
  fs::create_directories((path / name).parent_path());
  halftone::write_wav(path / name, {torch::ones({1, kFrames}) / 4, SpeechSet::kRate});
  return path;
}

void check(const SpeechSet& set) {
  for (std::int64_t i = 0; i < std::min<std::int64_t>(set.size(), 8); ++i) {
    torch::Tensor sound;
    if (!halftone::test::succeeds([&] { sound = set.sound(i); })) continue;
    require(sound.dim() == 1 && sound.size(0) > 0 && sound.size(0) <= kFrames,
            "a sound is a part of the file");
  }
  require(set.speakers().empty() == (set.size() == 0), "each utterance has a speaker");
  require(set.said_by(set.speakers()).size() == static_cast<std::size_t>(set.size()),
          "the speakers have said all");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t bytes) {
  static const fs::path names = folder_with("names", "en.wav");
  static const fs::path asterisk = folder_with("asterisk", "sounds/a.wav");
  for (const fs::path& index : {names / "en.tsv", asterisk / "core-sounds-en.txt.gz"})
    std::ofstream(index, std::ios::binary)
        .write(reinterpret_cast<const char*>(data), static_cast<std::streamsize>(bytes));
  halftone::test::succeeds([&] { check(SpeechSet::spoken_names(names)); });
  halftone::test::succeeds([&] { check(SpeechSet::asterisk_sounds(asterisk)); });
  return 0;
}
