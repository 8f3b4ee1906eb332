// SPDX-License-Identifier: Apache-2.0
#include "halftone/system/hash.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace halftone {
namespace {

constexpr std::uint64_t kPrime1 = 0x9E3779B185EBCA87;
constexpr std::uint64_t kPrime2 = 0xC2B2AE3D27D4EB4F;
constexpr std::uint64_t kPrime3 = 0x165667B19E3779F9;
constexpr std::uint64_t kPrime4 = 0x85EBCA77C2B2AE63;
constexpr std::uint64_t kPrime5 = 0x27D4EB2F165667C5;
constexpr std::size_t kStripe = 32;

template <class T>
std::uint64_t load(const char* bytes) {
  T value;
  std::memcpy(&value, bytes, sizeof(value));
  return value;
}

std::uint64_t round(std::uint64_t lane, std::uint64_t word) {
  return std::rotl(lane + word * kPrime2, 31) * kPrime1;
}

/// All whole stripes of `bytes`, which are taken away. The lanes live in registers meanwhile.
void consume(std::array<std::uint64_t, 4>& lanes, std::string_view& bytes) {
  std::array<std::uint64_t, 4> local = lanes;
  const char* at = bytes.data();
  const char* const end = at + bytes.size() / kStripe * kStripe;
  for (; at != end; at += kStripe) {
    local[0] = round(local[0], load<std::uint64_t>(at));
    local[1] = round(local[1], load<std::uint64_t>(at + 8));
    local[2] = round(local[2], load<std::uint64_t>(at + 16));
    local[3] = round(local[3], load<std::uint64_t>(at + 24));
  }
  lanes = local;
  bytes.remove_prefix(static_cast<std::size_t>(end - bytes.data()));
}

std::uint64_t merge(const std::array<std::uint64_t, 4>& lanes) {
  std::uint64_t hash = std::rotl(lanes[0], 1) + std::rotl(lanes[1], 7) + std::rotl(lanes[2], 12) +
                       std::rotl(lanes[3], 18);
  for (const std::uint64_t lane : lanes) hash = (hash ^ round(0, lane)) * kPrime1 + kPrime4;
  return hash;
}

std::uint64_t finish(std::uint64_t hash, std::string_view rest) {
  for (; rest.size() >= 8; rest.remove_prefix(8)) {
    hash ^= round(0, load<std::uint64_t>(rest.data()));
    hash = std::rotl(hash, 27) * kPrime1 + kPrime4;
  }
  if (rest.size() >= 4) {
    hash ^= load<std::uint32_t>(rest.data()) * kPrime1;
    hash = std::rotl(hash, 23) * kPrime2 + kPrime3;
    rest.remove_prefix(4);
  }
  for (const char byte : rest) {
    hash ^= static_cast<unsigned char>(byte) * kPrime5;
    hash = std::rotl(hash, 11) * kPrime1;
  }
  hash = (hash ^ (hash >> 33U)) * kPrime2;
  hash = (hash ^ (hash >> 29U)) * kPrime3;
  return hash ^ (hash >> 32U);
}

}  // namespace

void Hasher::update(std::string_view bytes) {
  total_ += bytes.size();
  if (pending_size_ > 0) {
    const std::size_t taken = std::min(kStripe - pending_size_, bytes.size());
    std::copy_n(bytes.data(), taken, pending_.data() + pending_size_);
    pending_size_ += taken;
    bytes.remove_prefix(taken);
    if (pending_size_ < kStripe) return;
    std::string_view whole(pending_.data(), kStripe);
    consume(lanes_, whole);
  }
  consume(lanes_, bytes);
  std::copy(bytes.begin(), bytes.end(), pending_.begin());
  pending_size_ = bytes.size();
}

void Hasher::update_field(std::string_view bytes) {
  const std::uint64_t size = bytes.size();
  update({reinterpret_cast<const char*>(&size), sizeof(size)});
  update(bytes);
}

std::uint64_t Hasher::digest() const {
  // lanes_[2] starts as the seed, 0, which is what the specification takes for short inputs.
  const std::uint64_t hash = total_ >= kStripe ? merge(lanes_) : kPrime5;
  return finish(hash + total_, {pending_.data(), pending_size_});
}

std::uint64_t hash_bytes(std::string_view bytes) {
  Hasher hasher;
  hasher.update(bytes);
  return hasher.digest();
}

}  // namespace halftone
