// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <concepts>
#include <cstdint>
#include <optional>

namespace halftone {

/// Part of an epoch: a number of batches, or a share of them. An integer is a number, a
/// floating-point value a share: 10 batches, 0.1 of them, 1.0 for all, 1 for one.
class EpochPart {
 public:
  EpochPart() = default;
  template <std::integral Count>
  EpochPart(Count count) : count_(static_cast<std::int64_t>(count)) {}
  template <std::floating_point Share>
  EpochPart(Share share) : share_(static_cast<double>(share)) {}

  bool is_all() const { return !count_ && share_ == 1.0; }
  bool is_none() const { return count_ ? *count_ == 0 : share_ == 0.0; }
  const std::optional<std::int64_t>& count() const { return count_; }
  double share() const { return share_; }
  /// How many of an epoch's batches. Throws UserError for a share of nobody knows how many, and for
  /// one that is less than one batch; `option` stands in the message.
  std::int64_t batches(std::optional<std::int64_t> per_epoch, const char* option) const;

 private:
  std::optional<std::int64_t> count_;
  double share_ = 1.0;
};

}  // namespace halftone
