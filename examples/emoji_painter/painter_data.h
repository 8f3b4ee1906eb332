// SPDX-License-Identifier: Apache-2.0
// Emoji and what they are called, as samples.
#pragma once

#include <halftone/data/collate.h>
#include <halftone/data/data_loader.h>
#include <halftone/media/emoji_set.h>

#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "examples/emoji_captions.h"

struct PainterBatch {
  torch::Tensor ids;       // (B, T) int64, of the captions
  torch::Tensor lengths;   // (B) int64
  torch::Tensor pictures;  // (B, 3, side, side) uint8; what is to be painted has none: (0)

  auto tensors() { return std::tie(ids, lengths, pictures); }
};

struct CaptionedPicture {
  std::string caption;
  torch::Tensor picture;
};

/// A picture and what it is called: differently each time, and nothing one time in ten, or, with
/// `only_names`, by its English name.
class CaptionedEmoji {
 public:
  CaptionedEmoji(std::shared_ptr<const halftone::EmojiSet> set, std::vector<std::int64_t> indices,
                 std::int64_t side, bool only_names)
      : set_(std::move(set)), indices_(std::move(indices)), only_names_(only_names) {
    how_.side = side;
    if (side > kKept) return;  // these would take too much memory
    drawn_ = set_->pictures(indices_, how_);
  }

  std::int64_t size() const { return std::ssize(indices_); }
  CaptionedPicture get(std::int64_t index, halftone::SampleSeed seed) const {
    const std::int64_t emoji = indices_[static_cast<std::size_t>(index)];
    return {caption((*set_)[emoji], seed),
            drawn_.defined() ? drawn_[index] : set_->picture(emoji, how_)};
  }
  std::string fingerprint() const { return set_->fingerprint(); }

 private:
  static constexpr std::int64_t kKept = 128;

  std::string caption(const halftone::Emoji& emoji, halftone::SampleSeed seed) const {
    if (only_names_) return emoji.english.name;
    return seed.uniform(3) < 0.1 ? "" : random_caption(emoji, seed);
  }

  std::shared_ptr<const halftone::EmojiSet> set_;
  std::vector<std::int64_t> indices_;
  halftone::EmojiPicture how_;
  bool only_names_;
  torch::Tensor drawn_;
};

struct CollateCaptions {
  PainterBatch operator()(const std::vector<CaptionedPicture>& samples) const {
    const Captions captions = encode_captions(
        tokenizer, halftone::column_of(samples, [](const auto& one) { return one.caption; }));
    return {captions.ids, captions.lengths,
            halftone::stack_samples(
                halftone::column_of(samples, [](const auto& one) { return one.picture; }))};
  }
  halftone::Tokenizer tokenizer;
};

using PainterLoader = halftone::DataLoader<CaptionedEmoji, CollateCaptions>;

/// What is to be painted, as the batches that Trainer::predict() takes.
inline std::vector<PainterBatch> wishes(const halftone::Tokenizer& tokenizer,
                                        const std::vector<std::string>& texts,
                                        std::size_t batch_size) {
  std::vector<PainterBatch> batches;
  for (std::size_t i = 0; i < texts.size(); i += batch_size) {
    const auto first = texts.begin() + static_cast<std::ptrdiff_t>(i);
    const auto count = std::min(batch_size, texts.size() - i);
    const Captions captions =
        encode_captions(tokenizer, {first, first + static_cast<std::ptrdiff_t>(count)});
    batches.push_back({captions.ids, captions.lengths, torch::empty({0}, torch::kUInt8)});
  }
  return batches;
}
