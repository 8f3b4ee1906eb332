// SPDX-License-Identifier: Apache-2.0
#include "halftone/data/sample_part.h"

#include <fmt/format.h>

#include "halftone/core/random.h"

namespace halftone {

bool SamplePart::has(std::uint64_t index) const {
  // A stream of its own: the seed orders the rows, too.
  constexpr std::uint64_t kOfParts = 0x48656C644F757421ULL;
  constexpr unsigned kDoubleBits = 53;
  if (is_all()) return true;
  const std::uint64_t word = random_word(seed ^ kOfParts, index) >> (64U - kDoubleBits);
  return (static_cast<double>(word) * 0x1p-53 < share) == (side == Side::kHeldOut);
}

std::string SamplePart::identity() const {
  return fmt::format("{} {} {}", side == Side::kHeldOut ? "held out" : "others", share, seed);
}

}  // namespace halftone
