// SPDX-License-Identifier: Apache-2.0
// The names of emoji, said by eSpeak NG: the data set `spoken-names` of `halftone data fetch`.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "halftone/data/datasets.h"

namespace halftone {

/// A voice of espeak-ng with a speed and a pitch.
struct Speaker {
  std::string name;  ///< of its files
  std::string voice;
  int words_per_minute = 0;
  int pitch = 0;         ///< 0..99
  std::string language;  ///< "en" or "zh": which name it says
};

/// All that make_spoken_names() knows: eight in English, four in Chinese.
const std::vector<Speaker>& espeak_speakers();

struct SpokenNamesOptions {
  std::filesystem::path folder;  ///< to put them in; empty: data/spoken-names in cache_folder()
  std::filesystem::path emoji;   ///< as EmojiSet reads; empty: fetch_dataset("emoji")
  std::int64_t speakers = 6;  ///< the first of espeak_speakers(): four in English, two in Chinese
  std::int64_t threads = 0;   ///< 0: as many as the machine has, at most 8
};

/// Has the program espeak-ng say the names of all emoji without a tone of skin: SPEAKER.wav (16
/// kHz, one channel, 16 bits), all names one after another, and SPEAKER.tsv, which says where each
/// lies; SpeechSet reads them. The same version of espeak-ng makes the same files. A speaker whose
/// files are there is left alone: a call that was stopped is gone on with, and more speakers can be
/// added. What is done is told with log_note. Throws UserError for a machine without espeak-ng, and
/// a folder that holds something else or what another version or other names made; SystemError when
/// the program fails or the disk is full.
FetchedData make_spoken_names(const SpokenNamesOptions& options = {});

}  // namespace halftone
