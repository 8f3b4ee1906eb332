// SPDX-License-Identifier: Apache-2.0
#include "halftone/tokenizer/byte_alphabet.h"

#include <array>

namespace halftone {
namespace {

constexpr int kCharacters = 256 + 68;  // code points from 0 that the alphabet may use

struct Alphabet {
  std::array<std::string, 256> character;
  std::array<int, kCharacters> byte;  // by code point, -1 where there is none
};

constexpr bool stands_for_itself(int byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

std::string utf8(int code_point) {
  if (code_point < 0x80) return {static_cast<char>(code_point)};
  return {static_cast<char>(0xC0 | code_point >> 6), static_cast<char>(0x80 | (code_point & 0x3F))};
}

Alphabet make_alphabet() {
  Alphabet alphabet;
  alphabet.byte.fill(-1);
  int next = 256;
  for (int byte = 0; byte < 256; ++byte) {
    const int code_point = stands_for_itself(byte) ? byte : next++;
    alphabet.character[static_cast<std::size_t>(byte)] = utf8(code_point);
    alphabet.byte[static_cast<std::size_t>(code_point)] = byte;
  }
  return alphabet;
}

const Alphabet& alphabet() {
  static const Alphabet instance = make_alphabet();
  return instance;
}

}  // namespace

const std::string& byte_character(std::uint8_t byte) { return alphabet().character[byte]; }

std::string to_byte_alphabet(std::string_view bytes) {
  std::string token;
  token.reserve(2 * bytes.size());
  for (const char byte : bytes) token += byte_character(static_cast<std::uint8_t>(byte));
  return token;
}

std::optional<std::string> from_byte_alphabet(std::string_view token) {
  std::string bytes;
  bytes.reserve(token.size());
  for (std::size_t at = 0; at < token.size(); ++at) {
    auto code_point = static_cast<std::size_t>(static_cast<unsigned char>(token[at]));
    if (code_point >= 0x80) {
      if (code_point < 0xC2 || code_point > 0xDF || at + 1 == token.size()) return std::nullopt;
      code_point = (code_point & 0x1FU) << 6U | (static_cast<unsigned char>(token[++at]) & 0x3FU);
    }
    const int byte = code_point < kCharacters ? alphabet().byte[code_point] : -1;
    if (byte < 0) return std::nullopt;
    bytes += static_cast<char>(byte);
  }
  return bytes;
}

}  // namespace halftone
