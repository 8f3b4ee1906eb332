// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace halftone {

/// Two neighbouring token ids as one word: it orders like the pair (left, right).
constexpr std::uint64_t pack_pair(std::uint32_t left, std::uint32_t right) {
  return std::uint64_t{left} << 32U | right;
}

/// A flat hash map from packed pairs to small values, with open addressing. It grows and never
/// erases; the pair of two all-ones ids is reserved.
template <class Value>
class PairMap {
 public:
  /// The value of `pair`, or nullptr.
  const Value* find(std::uint64_t pair) const {
    const Slot& slot = slots_[place(pair)];
    return slot.pair == pair ? &slot.value : nullptr;
  }

  /// The value of `pair`, made by `Value{}` if it was missing. Invalidates earlier pointers.
  Value& operator[](std::uint64_t pair) {
    if (2 * (size_ + 1) > slots_.size()) grow();
    Slot& slot = slots_[place(pair)];
    if (slot.pair != pair) {
      slot.pair = pair;
      ++size_;
    }
    return slot.value;
  }

 private:
  static constexpr std::uint64_t kEmpty = ~std::uint64_t{0};
  struct Slot {
    std::uint64_t pair = kEmpty;
    Value value{};
  };

  std::size_t place(std::uint64_t pair) const {
    std::size_t at = (pair * 0x9E3779B97F4A7C15U) >> shift_;
    while (slots_[at].pair != pair && slots_[at].pair != kEmpty)
      at = (at + 1) & (slots_.size() - 1);
    return at;
  }

  void grow() {
    std::vector<Slot> old(2 * slots_.size());
    old.swap(slots_);
    shift_ = 64 - std::countr_zero(slots_.size());
    for (Slot& slot : old)
      if (slot.pair != kEmpty) slots_[place(slot.pair)] = slot;
  }

  std::vector<Slot> slots_ = std::vector<Slot>(16);
  std::size_t size_ = 0;
  int shift_ = 60;
};

}  // namespace halftone
