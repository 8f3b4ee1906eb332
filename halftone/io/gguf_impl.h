// SPDX-License-Identifier: Apache-2.0
// What reader and writer of GGUF share. Private to the .cpp files of this folder.
#pragma once

#include <cstddef>
#include <cstdint>

namespace halftone::gguf {

inline constexpr char kMagic[4] = {'G', 'G', 'U', 'F'};
inline constexpr std::uint32_t kVersion = 3;
inline constexpr std::uint64_t kDefaultAlignment = 32;
inline constexpr const char* kAlignmentKey = "general.alignment";
inline constexpr std::uint32_t kArrayType = 9;  // the index of GgufArray in GgufValue
inline constexpr std::size_t kMaxDimensions = 4;
inline constexpr std::size_t kMaxNameBytes = 63;  // ggml keeps a name in 64 bytes, with its end

inline std::uint64_t aligned(std::uint64_t at, std::uint64_t alignment) {
  return (at + alignment - 1) / alignment * alignment;
}

}  // namespace halftone::gguf
