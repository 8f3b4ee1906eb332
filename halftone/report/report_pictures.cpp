// SPDX-License-Identifier: Apache-2.0
#include "halftone/report/report_pictures.h"

#include <fmt/format.h>

#include <string_view>

#include "halftone/core/page_style_impl.h"
#include "halftone/core/text.h"

namespace halftone {
namespace {

/// RFC 4648.
std::string base64(std::string_view bytes) {
  constexpr std::string_view kDigits =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  const auto byte = [&](std::size_t i) -> std::uint32_t {
    return i < bytes.size() ? static_cast<unsigned char>(bytes[i]) : 0U;
  };
  std::string text;
  text.reserve((bytes.size() + 2) / 3 * 4);
  for (std::size_t i = 0; i < bytes.size(); i += 3) {
    const std::uint32_t word = byte(i) << 16U | byte(i + 1) << 8U | byte(i + 2);
    for (const std::uint32_t shift : {18U, 12U, 6U, 0U}) text += kDigits[word >> shift & 63U];
  }
  const std::size_t rest = bytes.size() % 3;
  if (rest != 0) text.replace(text.size() - (3 - rest), 3 - rest, 3 - rest, '=');
  return text;
}

std::string picture_figure(const RunDescription::Picture& picture) {
  const std::string name = html_escaped(picture.name);
  return fmt::format(
      "<figure><figcaption><h3>{}<small>step {}</small></h3></figcaption>"
      "<img alt=\"{} after step {}\" src=\"data:image/png;base64,{}\"></figure>\n",
      name, picture.step, name, picture.step, base64(picture.png));
}

}  // namespace

std::string picture_section(const std::vector<RunDescription::Picture>& pictures) {
  if (pictures.empty()) return "";
  std::string text = "<section><h2>Pictures</h2>\n<div class=\"charts\">\n";
  for (const RunDescription::Picture& picture : pictures) text += picture_figure(picture);
  return text + "</div></section>\n";
}

}  // namespace halftone
