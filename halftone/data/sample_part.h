// SPDX-License-Identifier: Apache-2.0
// Samples that are held out of a corpus, such as for validation, and those that are left.
#pragma once

#include <cstdint>
#include <string>

namespace halftone {

/// A part of a corpus's samples. Which of them are held out is a function of seed, share and the
/// sample's index in the corpus: the same in every run.
struct SamplePart {
  enum class Side { kAll, kHeldOut, kOthers };

  Side side = Side::kAll;
  double share = 0;        ///< of the samples that are held out, on average; 0..1
  std::uint64_t seed = 0;  ///< that chooses them

  bool is_all() const { return side == Side::kAll; }
  /// Whether it has the sample of this index, from 0.
  bool has(std::uint64_t index) const;
  /// Differs when the samples would. REQUIRES !is_all().
  std::string identity() const;
};

}  // namespace halftone
