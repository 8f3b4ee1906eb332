// SPDX-License-Identifier: Apache-2.0
// Speech with its text: the data sets `spoken-names` and `asterisk-sounds` of `halftone data
// fetch`.
#pragma once

#include <torch/data/example.h>
#include <torch/types.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

namespace halftone {

/// One thing that was said.
struct Utterance {
  std::string text;
  std::string speaker;
  std::string language;  ///< "en" or "zh"
  std::string emoji;     ///< the code of the emoji whose name it is (EmojiSet), or empty
};

/// Utterances whose sounds are read from the disk when they are asked for. Copies share nothing;
/// every method is safe to call from several threads.
class SpeechSet {
 public:
  static constexpr std::int64_t kRate = 16'000;

  /// Reads what make_spoken_names() wrote: each SPEAKER.tsv of `folder`, in the order of their
  /// names, whose sounds lie in SPEAKER.wav. Throws UserError that names the file and the line,
  /// also where there are more than 1,000,000 utterances in all.
  static SpeechSet spoken_names(const std::filesystem::path& folder);
  /// Reads core-sounds-en.txt.gz of `folder` (fetch_dataset("asterisk-sounds") returns it); noises
  /// and silence, whose texts stand in brackets, and texts without a file in sounds/ are left out.
  static SpeechSet asterisk_sounds(const std::filesystem::path& folder);

  std::int64_t size() const { return static_cast<std::int64_t>(entries_.size()); }
  /// REQUIRES 0 <= index < size(), as sound().
  const Utterance& operator[](std::int64_t index) const;
  /// float32 (T), -1..1, at kRate, one channel. Throws what read_wav() throws.
  torch::Tensor sound(std::int64_t index) const;

  /// Each speaker once, in order.
  std::vector<std::string> speakers() const;
  /// The indices of what these speakers said, in order: a split by voices.
  std::vector<std::int64_t> said_by(const std::vector<std::string>& speakers) const;
  /// Of texts, speakers, places of the sounds: differs when they do.
  std::string fingerprint() const;

 private:
  struct Entry {
    Utterance utterance;
    std::size_t file = 0;      // of files_
    std::int64_t first = 0;    // frame of the file
    std::int64_t frames = -1;  // -1: all
  };
  std::vector<std::filesystem::path> files_;  // each once: their paths may be long
  std::vector<Entry> entries_;
};

/// Some utterances as samples for a DataLoader: data is float32 (T), target the index in the set.
class SpeechSamples {
 public:
  SpeechSamples(std::shared_ptr<const SpeechSet> set, std::vector<std::int64_t> indices);

  std::int64_t size() const { return static_cast<std::int64_t>(indices_.size()); }
  torch::data::Example<> get(std::int64_t index) const;
  std::string fingerprint() const;

 private:
  std::shared_ptr<const SpeechSet> set_;
  std::vector<std::int64_t> indices_;
};

struct SpeechBatch {
  torch::Tensor sounds;   ///< (B, T) float32, T that of the longest; zeros behind the shorter
  torch::Tensor lengths;  ///< (B) int64
  torch::Tensor mask;     ///< (B, T) bool, true where there is sound
  torch::Tensor target;   ///< (B) int64, indices in the SpeechSet

  auto tensors() { return std::tie(sounds, lengths, mask, target); }
};

/// The collate function of SpeechSamples: DataLoader(samples, options, PadSpeech()).
struct PadSpeech {
  SpeechBatch operator()(std::vector<torch::data::Example<>> samples) const;
};

}  // namespace halftone
