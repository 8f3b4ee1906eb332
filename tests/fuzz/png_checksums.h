// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <zlib.h>

#include <cstdint>
#include <string>

namespace halftone::test {

/// The bytes with right checksums in the chunks of every PNG file among them: else most changes
/// would end there.
inline std::string with_png_checksums(const std::uint8_t* data, std::size_t bytes) {
  const std::string mark = "\x89PNG\r\n\x1A\n";
  constexpr std::size_t kAround = 12;  // length, name, checksum
  std::string text(reinterpret_cast<const char*>(data), bytes);
  const auto byte_at = [&](std::size_t at) {
    return std::uint64_t{static_cast<unsigned char>(text[at])};
  };
  for (std::size_t at = text.find(mark); at != std::string::npos; at = text.find(mark, at)) {
    at += mark.size();
    while (at + kAround <= text.size()) {
      const std::uint64_t length =
          byte_at(at) << 24U | byte_at(at + 1) << 16U | byte_at(at + 2) << 8U | byte_at(at + 3);
      if (length > text.size() - at - kAround) break;
      const auto sum = crc32(0, reinterpret_cast<const Bytef*>(text.data()) + at + 4,
                             static_cast<uInt>(length + 4));
      for (unsigned i = 0; i < 4; ++i)
        text[at + 8 + length + i] = static_cast<char>(sum >> (24 - 8 * i));
      at += kAround + length;
    }
  }
  return text;
}

}  // namespace halftone::test
