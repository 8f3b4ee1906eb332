// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace halftone {

/// XXH64 (Collet, specification 0.2.0, seed 0): a fast checksum of bytes, fed in parts of any size.
/// Not for adversaries.
class Hasher {
 public:
  void update(std::string_view bytes);
  /// Adds a length before the bytes, so that ("ab", "c") and ("a", "bc") differ.
  void update_field(std::string_view bytes);
  std::uint64_t digest() const;

 private:
  std::array<std::uint64_t, 4> lanes_ = {0x60EA27EEADC0B5D6, 0xC2B2AE3D27D4EB4F, 0,
                                         0x61C8864E7A143579};
  std::array<char, 32> pending_{};
  std::size_t pending_size_ = 0;
  std::uint64_t total_ = 0;
};

std::uint64_t hash_bytes(std::string_view bytes);

}  // namespace halftone
