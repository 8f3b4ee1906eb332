// SPDX-License-Identifier: Apache-2.0
#include "halftone/io/checksum.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <vector>

#include "halftone/io/file.h"

namespace halftone {
namespace {

static_assert(std::endian::native == std::endian::little);

constexpr std::uint64_t kPrime1 = 0x9E3779B185EBCA87ULL;
constexpr std::uint64_t kPrime2 = 0xC2B2AE3D27D4EB4FULL;
constexpr std::uint64_t kPrime3 = 0x165667B19E3779F9ULL;
constexpr std::uint64_t kPrime4 = 0x85EBCA77C2B2AE63ULL;
constexpr std::uint64_t kPrime5 = 0x27D4EB2F165667C5ULL;

template <class T>
T load(const unsigned char* at) {
  T word;
  std::memcpy(&word, at, sizeof word);
  return word;
}

std::uint64_t round_of(std::uint64_t lane, std::uint64_t word) {
  return std::rotl(lane + word * kPrime2, 31) * kPrime1;
}

std::uint64_t merge(std::uint64_t hash, std::uint64_t lane) {
  return (hash ^ round_of(0, lane)) * kPrime1 + kPrime4;
}

}  // namespace

std::array<std::uint64_t, 4> Xxh64::initial_lanes() {
  return {kPrime1 + kPrime2, kPrime2, 0, 0 - kPrime1};
}

void Xxh64::consume(const unsigned char* stripe) {
  for (std::size_t i = 0; i < 4; ++i)
    lanes_[i] = round_of(lanes_[i], load<std::uint64_t>(stripe + 8 * i));
}

void Xxh64::update(const void* data, std::size_t bytes) {
  const auto* at = static_cast<const unsigned char*>(data);
  if (const std::size_t held = total_ % kStripe; held + bytes >= kStripe && held > 0) {
    const std::size_t missing = kStripe - held;
    std::memcpy(pending_.data() + held, at, missing);
    consume(pending_.data());
    total_ += missing;
    at += missing;
    bytes -= missing;
  }
  const std::size_t held = total_ % kStripe;
  total_ += bytes;
  if (held == 0) {
    for (; bytes >= kStripe; at += kStripe, bytes -= kStripe) consume(at);
  }
  if (bytes > 0) std::memcpy(pending_.data() + held, at, bytes);
}

std::uint64_t Xxh64::digest() const {
  std::uint64_t hash = kPrime5;
  if (total_ >= kStripe) {
    hash = std::rotl(lanes_[0], 1) + std::rotl(lanes_[1], 7) + std::rotl(lanes_[2], 12) +
           std::rotl(lanes_[3], 18);
    for (const std::uint64_t lane : lanes_) hash = merge(hash, lane);
  }
  hash += total_;
  const unsigned char* at = pending_.data();
  const unsigned char* const end = at + total_ % kStripe;
  for (; end - at >= 8; at += 8)
    hash = std::rotl(hash ^ round_of(0, load<std::uint64_t>(at)), 27) * kPrime1 + kPrime4;
  if (end - at >= 4) {
    hash = std::rotl(hash ^ load<std::uint32_t>(at) * kPrime1, 23) * kPrime2 + kPrime3;
    at += 4;
  }
  for (; at < end; ++at) hash = std::rotl(hash ^ *at * kPrime5, 11) * kPrime1;
  hash = (hash ^ hash >> 33U) * kPrime2;
  hash = (hash ^ hash >> 29U) * kPrime3;
  return hash ^ hash >> 32U;
}

std::uint64_t file_checksum(const std::filesystem::path& path) {
  const File file = File::open_regular(path);
  const std::uint64_t size = file.size();
  std::vector<char> chunk(std::size_t{1} << 20U);
  Xxh64 hash;
  for (std::uint64_t at = 0; at < size;) {
    const auto bytes = static_cast<std::size_t>(std::min<std::uint64_t>(chunk.size(), size - at));
    file.read_at(at, chunk.data(), bytes);
    hash.update(chunk.data(), bytes);
    at += bytes;
  }
  return hash.digest();
}

}  // namespace halftone
