// SPDX-License-Identifier: Apache-2.0
#include "halftone/run/event_record.h"

#include <array>
#include <bit>
#include <cstddef>

namespace halftone {
namespace {

constexpr std::uint32_t kReflectedPolynomial = 0x82F63B78;

constexpr std::array<std::uint32_t, 256> remainders() {
  std::array<std::uint32_t, 256> table{};
  for (std::uint32_t byte = 0; byte < table.size(); ++byte) {
    std::uint32_t rest = byte;
    for (int bit = 0; bit < 8; ++bit)
      rest = (rest >> 1U) ^ ((rest & 1U) != 0 ? kReflectedPolynomial : 0);
    table[byte] = rest;
  }
  return table;
}

template <class Integer>
std::string little_endian(Integer value) {
  std::string bytes;
  for (std::size_t i = 0; i < sizeof(Integer); ++i)
    bytes += static_cast<char>((value >> (8 * i)) & 0xFFU);
  return bytes;
}

std::string masked_checksum(std::string_view bytes) {
  constexpr std::uint32_t kMask = 0xA282EAD8;
  return little_endian(std::rotr(crc32c(bytes), 15) + kMask);
}

}  // namespace

std::uint32_t crc32c(std::string_view bytes) {
  static constexpr std::array<std::uint32_t, 256> kRemainders = remainders();
  std::uint32_t rest = ~std::uint32_t{0};
  for (const char byte : bytes)
    rest = (rest >> 8U) ^ kRemainders[(rest ^ static_cast<unsigned char>(byte)) & 0xFFU];
  return ~rest;
}

std::string event_record(std::string_view data) {
  const std::string length = little_endian(std::uint64_t{data.size()});
  std::string record = length + masked_checksum(length);
  record += data;
  return record + masked_checksum(data);
}

}  // namespace halftone
