// SPDX-License-Identifier: Apache-2.0
// Emoji as three things at once: a picture, a name in English or Chinese, and that name spoken.
#pragma once

#include <halftone/core/error.h>
#include <halftone/data/collate.h>
#include <halftone/data/data_loader.h>
#include <halftone/data/datasets.h>
#include <halftone/media/emoji_set.h>
#include <halftone/media/picture.h>
#include <halftone/media/png_file.h>
#include <halftone/media/speech_set.h>
#include <halftone/media/spoken_names.h>
#include <halftone/media/wav_file.h>
#include <halftone/nn/log_mel_spectrogram.h>
#include <halftone/tokenizer/tokenizer.h>
#include <torch/nn/functional/padding.h>
#include <torch/nn/functional/upsampling.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "examples/emoji_captions.h"

constexpr std::int64_t kSide = 64;                // pixels
constexpr std::int64_t kMels = 64;                // bands of a spectrogram
constexpr std::int64_t kFrames = 8;               // of 10 ms, in a row of a sound
constexpr std::int64_t kBands = kMels * kFrames;  // numbers of such a row
constexpr std::int64_t kLongestSound = 32;        // rows: 2.56 s, the rest is cut off
constexpr std::int64_t kLongestName = 16;         // tokens, <s> and </s> among them
inline const std::array<std::string, 2> kLanguages = {"en", "zh"};

/// What a row of a held-out set is held out by.
enum class HeldOut : std::int64_t { kEmoji, kVoice };

struct Sounds {
  torch::Tensor rows;     // (B, S, kBands), S a rounded_length(), zeros behind the shorter ones
  torch::Tensor lengths;  // (B) int64

  auto tensors() { return std::tie(rows, lengths); }
};

struct TrioBatch {
  torch::Tensor pictures;   // (B, 3, side, side), -1..1
  Captions names;           // of at most kLongestName tokens
  Sounds sounds;            // of at most kLongestSound rows
  torch::Tensor languages;  // (B) int64, of kLanguages
  torch::Tensor held_out;   // (B) int64, HeldOut

  /// One as large as any of `count` emoji: to plan with.
  static TrioBatch largest(std::int64_t count) {
    const torch::Tensor integers = torch::zeros({count}, torch::kLong);
    return {.pictures = torch::zeros({count, 3, kSide, kSide}),
            .names = {torch::zeros({count, kLongestName}, torch::kLong), integers},
            .sounds = {torch::zeros({count, kLongestSound, kBands}), integers},
            .languages = integers,
            .held_out = integers};
  }

  auto tensors() {
    return std::tie(pictures, names.ids, names.lengths, sounds.rows, sounds.lengths, languages,
                    held_out);
  }
};

struct TrioSample {
  torch::Tensor picture;
  std::string name;
  torch::Tensor sound;
  std::int64_t language = 0;
  std::int64_t held_out = 0;
};

/// float32 (3, side, side), -1..1, of a picture of bytes.
inline torch::Tensor as_input(const torch::Tensor& picture) {
  return picture.to(torch::kFloat) / 127.5 - 1;
}

/// That of a file of any size, laid over white and on a square.
inline torch::Tensor picture_of_png(const std::string& path) {
  const torch::Tensor read = halftone::read_png(path).to(torch::kFloat);
  const bool has_alpha = read.size(0) % 2 == 0;
  const torch::Tensor alpha = has_alpha ? read.slice(0, -1) / 255 : torch::ones({1, 1, 1});
  const torch::Tensor colours = has_alpha ? read.slice(0, 0, -1) : read;
  const torch::Tensor flat = (colours * alpha + 255 * (1 - alpha)).expand({3, -1, -1});
  const std::int64_t side = std::max(flat.size(1), flat.size(2));
  const std::int64_t left = (side - flat.size(2)) / 2;
  const std::int64_t top = (side - flat.size(1)) / 2;
  const torch::Tensor square = torch::constant_pad_nd(
      flat, {left, side - flat.size(2) - left, top, side - flat.size(1) - top}, 255.0);
  return as_input(halftone::resized_picture(square, kSide, kSide).clamp(0, 255));
}

/// That of a PNG file, or of an emoji. Throws UserError for what is neither.
inline torch::Tensor picture_of(const halftone::EmojiSet& set, const std::string& what) {
  if (what.ends_with(".png")) return picture_of_png(what);
  const std::int64_t index = set.find(what);
  if (index < 0)
    throw halftone::UserError("expected an emoji, a FILE.png or a FILE.wav, got '" + what + "'");
  return as_input(set.picture(index, {.side = kSide}));
}

/// (rows, kBands) of a spectrogram (kMels, frames), which is silent behind its end.
inline torch::Tensor rows_of_sound(const torch::Tensor& spectrogram) {
  const std::int64_t frames = std::min(spectrogram.size(1), kLongestSound * kFrames);
  const std::int64_t rows = (frames + kFrames - 1) / kFrames;
  const torch::Tensor padded =
      torch::constant_pad_nd(spectrogram.narrow(1, 0, frames), {0, rows * kFrames - frames}, -1.0);
  return padded.t().reshape({rows, kBands});
}

/// (kMels, frames), of samples (T) at 16 kHz.
inline torch::Tensor spectrogram_of(const torch::Tensor& samples) {
  static halftone::LogMelSpectrogram spectrogram(halftone::LogMelOptions{.n_mels = kMels});
  constexpr std::int64_t kShortest = 480;
  const std::int64_t missing = std::max<std::int64_t>(0, kShortest - samples.size(0));
  return spectrogram(torch::constant_pad_nd(samples, {0, missing}).unsqueeze(0)).squeeze(0);
}

inline Sounds sounds_of_rows(const std::vector<torch::Tensor>& rows) {
  const halftone::PaddedSequences sounds = halftone::pad_sequences(rows);
  const std::int64_t missing = rounded_length(sounds.padded.size(1)) - sounds.padded.size(1);
  return {torch::constant_pad_nd(sounds.padded, {0, 0, 0, missing}), sounds.lengths};
}

/// One, of samples (T) at 16 kHz.
inline Sounds sound_of(const torch::Tensor& samples) {
  return sounds_of_rows({rows_of_sound(spectrogram_of(samples))});
}

/// Emoji, their pictures and who says their names.
class Trio {
 public:
  /// Who is held out: one of the English and one of the Chinese voices that spoken-names has by
  /// default.
  static bool is_held_out(const std::string& speaker) {
    return speaker == "en-scotland-f2" || speaker == "zh-f3";
  }

  /// `speech`: the folder of spoken-names; empty: the one that `halftone data fetch` makes.
  explicit Trio(const std::filesystem::path& speech)
      : emoji_(halftone::fetch_dataset("emoji").folder),
        speech_(halftone::SpeechSet::spoken_names(
            speech.empty() ? halftone::make_spoken_names().folder : speech)),
        trained_(emoji_part(emoji_, /*held_out=*/false)),
        held_out_(emoji_part(emoji_, /*held_out=*/true)),
        pictures_(emoji_.pictures(emoji_.without_skin_tones(), {.side = kSide})) {
    const std::vector<std::int64_t> plain = emoji_.without_skin_tones();
    std::map<std::string, std::int64_t> of_code;
    for (std::size_t row = 0; row < plain.size(); ++row) {
      of_code[emoji_[plain[row]].code] = plain[row];
      row_of_[plain[row]] = static_cast<std::int64_t>(row);
    }
    for (std::int64_t i = 0; i < speech_.size(); ++i) {
      const halftone::Utterance& said = speech_[i];
      const auto found = of_code.find(said.emoji);
      if (found == of_code.end()) continue;
      const std::size_t language = said.language == kLanguages[0] ? 0 : 1;
      said_[found->second][language][is_held_out(said.speaker)].push_back(i);
    }
    for (const std::int64_t emoji : plain)
      if (said_[emoji][0][false].empty())
        throw halftone::UserError(
            "expected that the names of all emoji are said in English by a "
            "voice that is not held out, got none for '" +
            emoji_[emoji].english.name + "'; make spoken-names anew with 'halftone data fetch'");
  }

  const halftone::EmojiSet& emoji() const { return emoji_; }
  const std::vector<std::int64_t>& trained() const { return trained_; }
  const std::vector<std::int64_t>& held_out() const { return held_out_; }
  const std::string& name(std::int64_t emoji, std::int64_t language) const {
    return (language == 0 ? emoji_[emoji].english : emoji_[emoji].chinese).name;
  }
  /// uint8 (3, side, side).
  torch::Tensor picture(std::int64_t emoji) const { return pictures_[row_of_.at(emoji)]; }
  /// Those that say its name, of the voices that are held out or of the others.
  const std::vector<std::int64_t>& said(std::int64_t emoji, std::int64_t language,
                                        bool by_held_out) const {
    return said_.at(emoji)[static_cast<std::size_t>(language)][by_held_out];
  }
  torch::Tensor sound(std::int64_t utterance) const { return speech_.sound(utterance); }
  /// What says the English names of emoji first, of the voices that are not held out.
  Sounds sounds(const std::vector<std::int64_t>& emoji) const {
    std::vector<torch::Tensor> rows;
    for (const std::int64_t one : emoji)
      rows.push_back(rows_of_sound(spectrogram_of(sound(said(one, 0, false).front()))));
    return sounds_of_rows(rows);
  }
  std::string fingerprint() const { return emoji_.fingerprint() + speech_.fingerprint(); }

 private:
  halftone::EmojiSet emoji_;
  halftone::SpeechSet speech_;
  std::vector<std::int64_t> trained_;
  std::vector<std::int64_t> held_out_;
  torch::Tensor pictures_;
  std::map<std::int64_t, std::int64_t> row_of_;  // of pictures_
  // By emoji, language and whether the voice is held out.
  std::map<std::int64_t, std::array<std::array<std::vector<std::int64_t>, 2>, 2>> said_;
};

/// What is learned from: each emoji once in an epoch, in a language and by a voice that its seed
/// chooses, a little moved, and said faster or slower and higher or lower.
class TrioSamples {
 public:
  TrioSamples(std::shared_ptr<const Trio> trio, std::vector<std::int64_t> emoji)
      : trio_(std::move(trio)), emoji_(std::move(emoji)) {}

  std::int64_t size() const { return std::ssize(emoji_); }
  std::string fingerprint() const { return trio_->fingerprint(); }

  TrioSample get(std::int64_t index, halftone::SampleSeed seed) const {
    const std::int64_t emoji = emoji_[static_cast<std::size_t>(index)];
    const bool has_both = !trio_->said(emoji, 1, false).empty();
    const std::int64_t language = has_both && seed.uniform(0) < 0.5 ? 1 : 0;
    const std::vector<std::int64_t>& said = trio_->said(emoji, language, false);
    return {.picture = moved(as_input(trio_->picture(emoji)), seed),
            .name = trio_->name(emoji, language),
            .sound = rows_of_sound(
                spoken_otherwise(trio_->sound(said[seed.word(1) % said.size()]), seed)),
            .language = language};
  }

 private:
  static torch::Tensor moved(const torch::Tensor& picture, halftone::SampleSeed seed) {
    constexpr std::int64_t kMost = 6;  // pixels
    const torch::Tensor wide = torch::constant_pad_nd(picture, {kMost, kMost, kMost, kMost}, 1.0);
    const auto place = [&](std::uint64_t i) {
      return static_cast<std::int64_t>(seed.word(i) % (2 * kMost + 1));
    };
    return wide.narrow(1, place(2), kSide).narrow(2, place(3), kSide);
  }

  // (kMels, frames)
  static torch::Tensor spoken_otherwise(const torch::Tensor& samples, halftone::SampleSeed seed) {
    namespace F = torch::nn::functional;
    constexpr double kSpeed = 0.15;
    constexpr std::int64_t kPitch = 3;  // bands
    torch::Tensor sound = spectrogram_of(samples);
    const double factor = 1 - kSpeed + 2 * kSpeed * seed.uniform(4);
    const auto frames = static_cast<std::int64_t>(factor * static_cast<double>(sound.size(1)));
    sound = F::interpolate(sound.unsqueeze(0), F::InterpolateFuncOptions()
                                                   .size(std::vector<std::int64_t>{frames})
                                                   .mode(torch::kLinear)
                                                   .align_corners(false))
                .squeeze(0);
    return sound.roll(static_cast<std::int64_t>(seed.word(5) % (2 * kPitch + 1)) - kPitch, 0);
  }

  std::shared_ptr<const Trio> trio_;
  std::vector<std::int64_t> emoji_;
};

/// What is validated and tested with, in each language there is: emoji that are held out, by voices
/// that are not; and emoji that are not, by voices that are. As they are.
class HeldOutSamples {
 public:
  /// `every`: of the emoji that are not held out, each so manieth.
  HeldOutSamples(std::shared_ptr<const Trio> trio, std::int64_t every) : trio_(std::move(trio)) {
    for (const std::int64_t emoji : trio_->held_out()) add(emoji, HeldOut::kEmoji);
    for (std::size_t i = 0; i < trio_->trained().size(); i += static_cast<std::size_t>(every))
      add(trio_->trained()[i], HeldOut::kVoice);
  }

  std::int64_t size() const { return std::ssize(rows_); }
  TrioSample get(std::int64_t index) const {
    const Row& row = rows_[static_cast<std::size_t>(index)];
    return {.picture = as_input(trio_->picture(row.emoji)),
            .name = trio_->name(row.emoji, row.language),
            .sound = rows_of_sound(spectrogram_of(trio_->sound(row.utterance))),
            .language = row.language,
            .held_out = static_cast<std::int64_t>(row.by)};
  }

 private:
  struct Row {
    std::int64_t emoji;
    std::int64_t language;
    std::int64_t utterance;
    HeldOut by;
  };

  void add(std::int64_t emoji, HeldOut by) {
    for (std::int64_t language = 0; language < std::ssize(kLanguages); ++language) {
      const std::vector<std::int64_t>& said = trio_->said(emoji, language, by == HeldOut::kVoice);
      if (!said.empty()) rows_.push_back({emoji, language, said.front(), by});
    }
  }

  std::shared_ptr<const Trio> trio_;
  std::vector<Row> rows_;
};

struct CollateTrio {
  TrioBatch operator()(const std::vector<TrioSample>& samples) const {
    const auto column = [&](const auto& get) { return halftone::column_of(samples, get); };
    return {.pictures =
                halftone::stack_samples(column([](const TrioSample& one) { return one.picture; })),
            .names = encode_captions(
                tokenizer, column([](const TrioSample& one) { return one.name; }), kLongestName),
            .sounds = sounds_of_rows(column([](const TrioSample& one) { return one.sound; })),
            .languages =
                halftone::number_tensor(column([](const TrioSample& one) { return one.language; })),
            .held_out = halftone::number_tensor(
                column([](const TrioSample& one) { return one.held_out; }))};
  }
  halftone::Tokenizer tokenizer;
};

using TrioLoader = halftone::DataLoader<TrioSamples, CollateTrio>;
using HeldOutLoader = halftone::DataLoader<HeldOutSamples, CollateTrio>;

/// Of `limit` emoji at most; 0: of all that are not held out.
inline TrioLoader training_batches(const std::shared_ptr<const Trio>& trio, std::int64_t limit,
                                   std::int64_t batch_size, std::uint64_t seed,
                                   const CollateTrio& collate) {
  std::vector<std::int64_t> emoji = trio->trained();
  if (limit > 0) emoji.resize(std::min(emoji.size(), static_cast<std::size_t>(limit)));
  return TrioLoader({trio, emoji}, {.batch_size = batch_size, .seed = seed, .drop_last = true},
                    collate);
}

inline HeldOutLoader held_out_batches(const std::shared_ptr<const Trio>& trio, std::int64_t every,
                                      const CollateTrio& collate) {
  return HeldOutLoader({trio, every}, {.batch_size = 128, .shuffle = false}, collate);
}
