// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string_view>

namespace halftone {

/// A font whose glyphs are pictures (CBDT, as Noto Color Emoji), held in memory. Safe to use from
/// several threads, which take turns.
class EmojiFont {
 public:
  /// Throws UserError that names the file when it is missing, damaged, or has no colour bitmaps.
  explicit EmojiFont(const std::filesystem::path& path);
  ~EmojiFont();
  EmojiFont(const EmojiFont&) = delete;
  EmojiFont& operator=(const EmojiFont&) = delete;

  /// The glyph with a picture that the whole of `text` (UTF-8) becomes, ligatures included; nothing
  /// when the font lacks it or draws it of several. Texts that are drawn alike share a glyph.
  std::optional<std::uint32_t> find(std::string_view text) const;

  /// The glyph's picture: uint8 (4, H, W), red, green, blue, alpha, with alpha multiplied into the
  /// colours. Throws UserError when the picture is damaged, blank, or larger than 1,024 pixels.
  torch::Tensor picture(std::uint32_t glyph) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace halftone
