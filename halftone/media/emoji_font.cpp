// SPDX-License-Identifier: Apache-2.0
#include "halftone/media/emoji_font.h"

#include <ATen/ops/empty.h>
#include <fmt/format.h>
#include <ft2build.h>
#include <hb.h>

#include <cstring>
#include <mutex>
#include <string>
#include FT_FREETYPE_H

#include "halftone/core/error.h"
#include "halftone/system/file.h"

namespace halftone {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t kMaxFontBytes = std::uint64_t{256} << 20U;
constexpr unsigned kMaxFontSide = 1'024;

template <auto kDestroy>
struct Destroyer {
  template <class T>
  void operator()(T* object) const {
    kDestroy(object);
  }
};
template <class T, auto kDestroy>
using Handle = std::unique_ptr<T, Destroyer<kDestroy>>;

std::string freetype_error(FT_Error error) {
  const char* text = FT_Error_String(error);  // nothing, in a build without them
  return text == nullptr ? fmt::format("FreeType's error {:#x}", error) : text;
}

}  // namespace

struct EmojiFont::State {
  explicit State(const fs::path& font_path)
      : path(font_path), bytes(read_file(font_path, kMaxFontBytes)) {
    FT_Library opened = nullptr;
    if (FT_Init_FreeType(&opened) != 0) throw std::bad_alloc();
    library.reset(opened);
    FT_Face opened_face = nullptr;
    if (const FT_Error error =
            FT_New_Memory_Face(opened, reinterpret_cast<const FT_Byte*>(bytes.data()),
                               static_cast<FT_Long>(bytes.size()), 0, &opened_face))
      fail(freetype_error(error));
    face.reset(opened_face);
    select_size();
    const Handle<hb_blob_t, hb_blob_destroy> blob(
        hb_blob_create(bytes.data(), static_cast<unsigned>(bytes.size()), HB_MEMORY_MODE_READONLY,
                       nullptr, nullptr));
    const Handle<hb_face_t, hb_face_destroy> shaped(hb_face_create(blob.get(), 0));
    shaper.reset(hb_font_create(shaped.get()));
  }

  // The largest of its sizes.
  void select_size() {
    if (!FT_HAS_COLOR(face.get()) || face->num_fixed_sizes < 1) fail("it has no colour bitmaps");
    FT_Int best = 0;
    for (FT_Int i = 1; i < face->num_fixed_sizes; ++i)
      if (face->available_sizes[i].height > face->available_sizes[best].height) best = i;
    if (const FT_Error error = FT_Select_Size(face.get(), best)) fail(freetype_error(error));
  }

  [[noreturn]] void fail(const std::string& what) const {
    throw UserError(
        fmt::format("'{}' is not a font of colour emoji: {}; fetch it again with 'halftone data "
                    "fetch emoji'",
                    path.string(), what));
  }

  // Before FreeType takes memory for it, which may be 4 GiB. REQUIRES `one_reader` is held.
  bool has_picture(std::uint32_t glyph) const {
    const FT_Bitmap& bitmap = face->glyph->bitmap;
    return FT_Load_Glyph(face.get(), glyph, FT_LOAD_COLOR | FT_LOAD_BITMAP_METRICS_ONLY) == 0 &&
           face->glyph->format == FT_GLYPH_FORMAT_BITMAP &&
           bitmap.pixel_mode == FT_PIXEL_MODE_BGRA && bitmap.rows >= 1 && bitmap.width >= 1 &&
           bitmap.rows <= kMaxFontSide && bitmap.width <= kMaxFontSide;
  }

  fs::path path;
  std::string bytes;  // FreeType and HarfBuzz read from it
  Handle<FT_LibraryRec_, FT_Done_FreeType> library;
  Handle<FT_FaceRec_, FT_Done_Face> face;
  Handle<hb_font_t, hb_font_destroy> shaper;
  mutable std::mutex one_reader;  // a face has one glyph at a time
};

EmojiFont::EmojiFont(const fs::path& path) : state_(std::make_unique<State>(path)) {}

EmojiFont::~EmojiFont() = default;

std::optional<std::uint32_t> EmojiFont::find(std::string_view text) const {
  const Handle<hb_buffer_t, hb_buffer_destroy> buffer(hb_buffer_create());
  const auto size = static_cast<int>(text.size());
  hb_buffer_add_utf8(buffer.get(), text.data(), size, 0, size);
  hb_buffer_guess_segment_properties(buffer.get());
  hb_buffer_set_flags(buffer.get(), HB_BUFFER_FLAG_REMOVE_DEFAULT_IGNORABLES);
  {
    const std::scoped_lock lock(state_->one_reader);
    hb_shape(state_->shaper.get(), buffer.get(), nullptr, 0);
  }
  unsigned count = 0;
  const hb_glyph_info_t* glyphs = hb_buffer_get_glyph_infos(buffer.get(), &count);
  constexpr std::uint32_t kMissing = 0;
  if (count != 1 || glyphs[0].codepoint == kMissing) return std::nullopt;
  const std::scoped_lock lock(state_->one_reader);
  if (!state_->has_picture(glyphs[0].codepoint)) return std::nullopt;
  return glyphs[0].codepoint;
}

torch::Tensor EmojiFont::picture(std::uint32_t glyph) const {
  const std::scoped_lock lock(state_->one_reader);
  FT_Face face = state_->face.get();
  if (!state_->has_picture(glyph))
    state_->fail(fmt::format("glyph {} has no picture of at most {} x {} pixels", glyph,
                             kMaxFontSide, kMaxFontSide));
  if (const FT_Error error = FT_Load_Glyph(face, glyph, FT_LOAD_COLOR))
    state_->fail(fmt::format("glyph {}: {}", glyph, freetype_error(error)));
  const FT_Bitmap& bitmap = face->glyph->bitmap;
  const std::int64_t height = bitmap.rows;
  const std::int64_t width = bitmap.width;
  constexpr std::int64_t kChannels = 4;
  if (bitmap.pixel_mode != FT_PIXEL_MODE_BGRA || bitmap.pitch < width * kChannels)
    state_->fail(fmt::format("glyph {} is drawn in other pixels than it says", glyph));
  const torch::Tensor pixels = at::empty({height, width, kChannels}, torch::kByte);
  for (std::int64_t y = 0; y < height; ++y)
    std::memcpy(pixels.data_ptr<std::uint8_t>() + y * width * kChannels,
                bitmap.buffer + y * bitmap.pitch, static_cast<std::size_t>(width * kChannels));
  if (!pixels.select(2, kChannels - 1).any().item<bool>())  // FreeType calls it no error
    state_->fail(fmt::format("glyph {} is blank, or its PNG is not of {} x {} pixels", glyph, width,
                             height));
  return pixels.permute({2, 0, 1}).index_select(0, torch::tensor({2, 1, 0, 3})).contiguous();
}

}  // namespace halftone
