// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "halftone/media/emoji_set.h"

namespace halftone {

/// The places (N) int64 of those of `candidates` (M, C, h, w), M >= 1, that differ least from each
/// of `pictures` (N, C, H, W), which are resized to h by w (resized_picture()): by the sum of
/// squares, of equal ones the first. Both floating.
torch::Tensor nearest_pictures(const torch::Tensor& pictures, const torch::Tensor& candidates);

/// What pictures that a model made resemble: scores by the emoji whose picture, in 32 by 32 pixels,
/// is nearest.
class EmojiLikeness {
 public:
  /// `candidates`: the emoji that pictures are compared with, such as those that were trained on.
  EmojiLikeness(std::shared_ptr<const EmojiSet> set, std::vector<std::int64_t> candidates);

  /// The candidates that are nearest to `pictures` (N, 3, H, W), floating in 0..1.
  std::vector<std::int64_t> nearest(const torch::Tensor& pictures) const;

  /// The share of `pictures`, which stand for the emoji `meant`, N of each and N >= 1, whose
  /// nearest candidate is of the same family.
  double own_family(const torch::Tensor& pictures, const std::vector<std::int64_t>& meant) const;

  /// `nearest`: the share whose nearest candidate has a word of its English name or keywords in
  /// common with the emoji that was meant; `chance`: the same of a candidate drawn at random. Words
  /// of less than three letters do not count, nor do those that more than a twentieth of the
  /// candidates have.
  struct SharedWord {
    double nearest = 0;
    double chance = 0;
  };
  SharedWord shared_word(const torch::Tensor& pictures,
                         const std::vector<std::int64_t>& meant) const;

 private:
  std::shared_ptr<const EmojiSet> set_;
  std::vector<std::int64_t> candidates_;
  torch::Tensor pictures_;  // of the candidates, fp32 (M, 3, 32, 32)
  std::set<std::string> common_;
};

}  // namespace halftone
