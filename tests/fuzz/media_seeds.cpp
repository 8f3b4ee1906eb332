// SPDX-License-Identifier: Apache-2.0
#include <filesystem>
#include <string>

#include "halftone/media/png_file.h"
#include "halftone/media/spoken_names_impl.h"
#include "halftone/media/wav_file.h"
#include "halftone/system/file.h"
#include "seed_writers.h"

namespace halftone::test {
namespace {

namespace fs = std::filesystem;

// A chunk of RIFF.
std::string riff_chunk(const std::string& name, const std::string& content) {
  std::string size;
  for (unsigned i = 0; i < 4; ++i) size += static_cast<char>(content.size() >> (8 * i) & 0xFFU);
  return name + size + content + std::string(content.size() % 2, '\0');
}

// A sound of 1,000 frames per second in this coding; 24 bytes of samples.
std::string coded_sound(char coding, char channels, char bits) {
  const char frame = static_cast<char>(channels * bits / 8);
  const std::string header = {coding, 0, channels, 0, '\xE8', 3, 0,    0,
                              0,      0, 0,        0, frame,  0, bits, 0};
  std::string samples;
  for (int i = 0; i < 24; ++i) samples += static_cast<char>(i * 7);
  return riff_chunk("RIFF", "WAVE" + riff_chunk("fmt ", header) + riff_chunk("LIST", "INFO") +
                                riff_chunk("data", samples));
}

}  // namespace

void write_media_seeds(const fs::path& folder) {
  const fs::path goldens = HALFTONE_GOLDENS;
  for (const auto& entry : fs::directory_iterator(goldens / "png"))
    if (entry.path().extension() == ".png")
      fs::copy_file(entry.path(), folder / "png" / entry.path().filename(),
                    fs::copy_options::overwrite_existing);
  write_png(folder / "png/written", torch::zeros({4, 3, 2}));
  for (const char* font : {"emoji.ttf", "emoji_sbix.ttf"})
    fs::copy_file(goldens / font, folder / "font" / font, fs::copy_options::overwrite_existing);
  write_wav(folder / "wav/written", {torch::zeros({2, 20}), 44'100});
  for (const char bits : {8, 16, 24, 32})
    write_seed(folder / "wav" / ("pcm" + std::to_string(bits)), coded_sound(1, 1, bits));
  for (const char bits : {32, 64})
    write_seed(folder / "wav" / ("float" + std::to_string(bits)), coded_sound(3, 1, bits));
  write_seed(folder / "wav/alaw", coded_sound(6, 2, 8));
  write_seed(folder / "wav/mulaw", coded_sound(7, 1, 8));
  write_seed(folder / "speech/names",
             std::string(kSpokenNamesHeader) +
                 "\n1f600\t0\t20\ten\tgrinning face\n1f601\t20\t44\tzh\t笑\n");
  write_seed(folder / "speech/asterisk", "; Core\n\na: Added.\na: at [@]\nb/c: (silence)\n");
  write_seed(folder / "annotations/both",
             "<?xml version=\"1.0\" encoding=\"UTF-8\" ?>\n<!DOCTYPE ldml SYSTEM \"a.dtd\">\n"
             "<!-- c --><ldml><identity><language type=\"en\"/></identity><annotations>\n"
             "<annotation cp=\"😀\">face | grin</annotation>\n"
             "<annotation cp=\"😀\" type=\"tts\">grinning face</annotation>\n"
             "<annotation cp=\"&amp;\" type=\"tts\"><![CDATA[and]]>&#x26;</annotation>\n"
             "<annotation cp=\"a\" type=\"tts\">↑↑↑</annotation></annotations></ldml>\n");
  write_seed(folder / "annotations/entity",
             "<!DOCTYPE a [<!ENTITY b \"c\">]><a><annotation cp=\"x\" type=\"tts\">&b;"
             "</annotation></a>");
}

}  // namespace halftone::test
