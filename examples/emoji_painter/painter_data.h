// SPDX-License-Identifier: Apache-2.0
// Emoji, what they are called, and the noise that they are mixed with, as batches.
#pragma once

#include <halftone/core/log.h>
#include <halftone/core/random.h>
#include <halftone/data/collate.h>
#include <halftone/data/data_loader.h>
#include <halftone/data/datasets.h>
#include <halftone/media/emoji_set.h>
#include <torch/special.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "examples/emoji_captions.h"

/// What is to be painted has neither `pictures` nor `times`, both are (0); and its captions are
/// those of B pictures, then B times none, for guidance.
struct PainterBatch {
  static constexpr std::int64_t kTimes = 1 << 16;

  torch::Tensor ids;       // (B, T) int64, of the captions
  torch::Tensor lengths;   // (B) int64
  torch::Tensor noise;     // (B, 3, side, side), normal
  torch::Tensor pictures;  // (B, 3, side, side) uint8
  torch::Tensor times;     // (B) int64, in 1 / kTimes: a true 16-bit precision rounds fractions

  auto tensors() { return std::tie(ids, lengths, noise, pictures, times); }

  /// One as large as most of `count` pictures: to plan with.
  static PainterBatch planned(std::int64_t count, std::int64_t side) {
    constexpr std::int64_t kTokens = 24;  // of the longest caption of most batches
    return {torch::zeros({count, kTokens}, torch::kLong),
            torch::full({count}, kTokens, torch::kLong), torch::zeros({count, 3, side, side}),
            torch::zeros({count, 3, side, side}, torch::kUInt8),
            torch::zeros({count}, torch::kLong)};
  }
};

struct CaptionedPicture {
  std::string caption;
  torch::Tensor picture;
};

/// A picture and what it is called: differently each time, and nothing one time in ten, or, with
/// `only_names`, by its English name.
class CaptionedEmoji {
 public:
  CaptionedEmoji(const std::shared_ptr<const halftone::EmojiSet>& set,
                 const std::vector<std::int64_t>& indices, std::int64_t side, bool only_names)
      : set_(set),
        indices_(indices),
        pictures_(set, indices, {.side = side}),
        only_names_(only_names) {
    if (side <= kKept) drawn_ = set->pictures(indices, {.side = side});
  }

  std::int64_t size() const { return pictures_.size(); }
  CaptionedPicture get(std::int64_t index, halftone::SampleSeed seed) const {
    const halftone::Emoji& emoji = (*set_)[indices_[static_cast<std::size_t>(index)]];
    return {caption(emoji, seed), drawn_.defined() ? drawn_[index] : pictures_.get(index).data};
  }
  std::string fingerprint() const {
    return pictures_.fingerprint() + (only_names_ ? ", names" : ", captions");
  }

 private:
  static constexpr std::int64_t kKept = 128;  // pixels of a side: larger ones take too much memory

  std::string caption(const halftone::Emoji& emoji, halftone::SampleSeed seed) const {
    if (only_names_) return emoji.english.name;
    return seed.uniform(3) < 0.1 ? "" : random_caption(emoji, seed);
  }

  std::shared_ptr<const halftone::EmojiSet> set_;
  std::vector<std::int64_t> indices_;
  halftone::EmojiPictures pictures_;
  bool only_names_;
  torch::Tensor drawn_;  // or undefined
};

/// Captions as tokens, with noise and times that the batch's seed fixes. Times are logit-normal
/// (Esser et al. 2024), most often small: there the caption alone tells what will become of the
/// noise.
struct CollatePainter {
  PainterBatch operator()(const std::vector<CaptionedPicture>& samples,
                          halftone::SampleSeed seed) const {
    constexpr double kMean = -2.0;
    constexpr double kDeviation = 1.2;
    const Captions captions = encode_captions(
        tokenizer, halftone::column_of(samples, [](const auto& one) { return one.caption; }));
    const torch::Tensor pictures = halftone::stack_samples(
        halftone::column_of(samples, [](const auto& one) { return one.picture; }));
    torch::Generator random = seed.generator();
    const std::int64_t count = pictures.size(0);
    const torch::Tensor shares =
        even_times ? (torch::arange(count, torch::kDouble) + 0.5) / static_cast<double>(count)
                   : torch::rand({count}, random, torch::kDouble);
    const torch::Tensor times = torch::sigmoid(kDeviation * torch::special::ndtri(shares) + kMean);
    return {captions.ids, captions.lengths, torch::randn(pictures.sizes(), random), pictures,
            (times * PainterBatch::kTimes).to(torch::kLong)};
  }

  halftone::Tokenizer tokenizer;
  bool even_times = false;  // quantiles, so that validations have less noise
};

using PainterLoader = halftone::DataLoader<CaptionedEmoji, CollatePainter>;

/// Which emoji a painter learns from.
struct PainterEmoji {
  /// `limit`: at most so many are learned from; 0: all but those that are held out.
  explicit PainterEmoji(std::int64_t limit) : seen(emoji_part(*set, /*held_out=*/false)) {
    if (limit > 0) seen = evenly_spaced(seen, limit);
  }

  std::vector<std::string> names(const std::vector<std::int64_t>& indices) const {
    return english_names(*set, indices);
  }

  PainterLoader training_batches(const halftone::Tokenizer& tokenizer, std::int64_t side,
                                 std::int64_t batch_size, std::uint64_t loader_seed) const {
    return PainterLoader({set, seen, side, /*only_names=*/false},
                         {.batch_size = batch_size, .seed = loader_seed}, {tokenizer});
  }
  PainterLoader validation_batches(const halftone::Tokenizer& tokenizer, std::int64_t side) const {
    return PainterLoader({set, evenly_spaced(held_out, 128), side, /*only_names=*/true},
                         {.batch_size = 64, .shuffle = false}, {tokenizer, /*even_times=*/true});
  }

  std::shared_ptr<const halftone::EmojiSet> set =
      std::make_shared<const halftone::EmojiSet>(halftone::fetch_dataset("emoji").folder);
  std::vector<std::int64_t> seen;
  std::vector<std::int64_t> held_out = emoji_part(*set, /*held_out=*/true);
};

/// What is to be painted, as the batches that Trainer::predict() takes. Each picture has noise of
/// its own, which `seed` and its place among `texts` fix.
inline std::vector<PainterBatch> caption_batches(const halftone::Tokenizer& tokenizer,
                                                 const std::vector<std::string>& texts,
                                                 std::int64_t side, std::uint64_t seed) {
  constexpr std::size_t kBatch = 16;
  std::vector<PainterBatch> batches;
  for (std::size_t first = 0; first < texts.size(); first += kBatch) {
    const std::size_t last = std::min(first + kBatch, texts.size());
    std::vector<std::string> part;
    std::vector<torch::Tensor> noise;
    for (std::size_t i = first; i < last; ++i) {
      if (std::ssize(tokenizer.encode(texts[i])) > kLongestCaption - 2)
        halftone::log_warning_once("only the first words are read: '" + texts[i] + "' is too long");
      torch::Generator random = halftone::SampleSeed{halftone::random_word(seed, i)}.generator();
      noise.push_back(torch::randn({3, side, side}, random));
      part.push_back(texts[i]);
    }
    part.resize(2 * part.size());
    const Captions captions = encode_captions(tokenizer, part);
    batches.push_back({captions.ids, captions.lengths, torch::stack(noise),
                       torch::empty({0}, torch::kUInt8), torch::empty({0}, torch::kLong)});
  }
  return batches;
}
