// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <vector>

#include "halftone/core/process_group.h"
#include "halftone/optim/piece_rows.h"

namespace halftone {

/// Pieces of a flat tensor under way from the processes that have them to all. Each of them begins
/// with the same pieces, in order of rank.
class PiecesUnderWay {
 public:
  PiecesUnderWay(ProcessGroup& group, torch::Tensor flat, const std::vector<Range>& pieces);
  /// Waits, and puts the others' pieces in their places.
  void finish();

 private:
  std::int64_t rank_;
  torch::Tensor flat_;
  PieceRows rows_;
  ProcessGroup::Pending pending_;
};

}  // namespace halftone
