// SPDX-License-Identifier: Apache-2.0
#include <unicode/utf8.h>

#include <cstdint>

#include "halftone/tokenizer/unfinished_utf8_impl.h"

namespace halftone {

std::size_t unfinished_utf8(std::string_view text) {
  const auto* bytes = reinterpret_cast<const std::uint8_t*>(text.data());
  // Signed: ICU looks at what stands two and three bytes before the end only if that is not
  // negative.
  auto length = static_cast<std::ptrdiff_t>(text.size());
  U8_TRUNCATE_IF_INCOMPLETE(bytes, 0, length);
  return text.size() - static_cast<std::size_t>(length);
}

}  // namespace halftone
