// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>

namespace halftone {

/// XXH64 (Collet; the XXH64 section of the xxHash fast digest specification) with seed 0: finds
/// damage at memory speed, is no defence against malice.
class Xxh64 {
 public:
  void update(const void* data, std::size_t bytes);
  std::uint64_t digest() const;

 private:
  static constexpr std::size_t kStripe = 32;

  std::array<std::uint64_t, 4> lanes_ = initial_lanes();
  std::array<unsigned char, kStripe> pending_{};
  std::uint64_t total_ = 0;

  static std::array<std::uint64_t, 4> initial_lanes();
  void consume(const unsigned char* stripe);
};

/// XXH64 of a file's bytes. Throws UserError when it can't be read.
std::uint64_t file_checksum(const std::filesystem::path& path);

}  // namespace halftone
