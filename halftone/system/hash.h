// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace halftone {

/// XXH64 of the xxHash library, seed 0: a fast checksum of bytes, fed in parts of any size. Not for
/// adversaries. May be copied in the middle.
class Hasher {
 public:
  Hasher();
  void update(std::string_view bytes);
  /// Adds a length before the bytes, so that ("ab", "c") and ("a", "bc") differ.
  void update_field(std::string_view bytes);
  std::uint64_t digest() const;

 private:
  alignas(std::uint64_t) std::array<std::byte, 88> state_;  // an XXH64_state_t
};

std::uint64_t hash_bytes(std::string_view bytes);

}  // namespace halftone
