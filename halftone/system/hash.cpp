// SPDX-License-Identifier: Apache-2.0
#include "halftone/system/hash.h"

#define XXH_INLINE_ALL  // compiled in: who links this library needs no xxHash
#include <xxhash.h>

#include <new>

namespace halftone {
namespace {

XXH64_state_t* xxh64(std::array<std::byte, 88>& state) {
  static_assert(sizeof(XXH64_state_t) == 88 && alignof(XXH64_state_t) == alignof(std::uint64_t));
  return std::launder(reinterpret_cast<XXH64_state_t*>(state.data()));
}

}  // namespace

Hasher::Hasher() {
  new (state_.data()) XXH64_state_t;
  XXH64_reset(xxh64(state_), /*seed=*/0);
}

void Hasher::update(std::string_view bytes) {
  if (!bytes.empty()) XXH64_update(xxh64(state_), bytes.data(), bytes.size());
}

void Hasher::update_field(std::string_view bytes) {
  const std::uint64_t size = bytes.size();
  update({reinterpret_cast<const char*>(&size), sizeof(size)});
  update(bytes);
}

std::uint64_t Hasher::digest() const {
  return XXH64_digest(std::launder(reinterpret_cast<const XXH64_state_t*>(state_.data())));
}

std::uint64_t hash_bytes(std::string_view bytes) { return XXH64(bytes.data(), bytes.size(), 0); }

}  // namespace halftone
