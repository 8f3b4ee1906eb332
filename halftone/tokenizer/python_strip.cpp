// SPDX-License-Identifier: Apache-2.0
#include <unicode/uchar.h>
#include <unicode/utf8.h>

#include <algorithm>
#include <cstddef>

#include "halftone/tokenizer/python_strip_impl.h"

namespace halftone {
namespace {

// Beside Unicode's white space Python takes the separators of files, groups, records and units.
bool is_python_space(UChar32 code_point) {
  return (code_point >= 0x1C && code_point <= 0x1F) ||
         (code_point >= 0 && u_hasBinaryProperty(code_point, UCHAR_WHITE_SPACE));
}

}  // namespace

std::string_view python_strip(std::string_view text) {
  std::size_t begin = text.size();
  std::size_t end = text.size();
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t start = at;
    UChar32 code_point = 0;
    U8_NEXT(text.data(), at, text.size(), code_point);
    if (is_python_space(code_point)) continue;
    begin = std::min(begin, start);
    end = at;
  }
  return text.substr(begin, end - begin);
}

}  // namespace halftone
