// SPDX-License-Identifier: Apache-2.0
#include "halftone/optim/pieces_under_way.h"

#include <utility>

namespace halftone {

PiecesUnderWay::PiecesUnderWay(ProcessGroup& group, torch::Tensor flat,
                               const std::vector<Range>& pieces)
    : rank_(group.rank()), flat_(std::move(flat)), rows_(flat_, pieces, flat_.scalar_type()) {
  rows_.put(flat_, rank_);
  pending_ = group.all_gather(rows_.all(), rows_.row(rank_));
}

void PiecesUnderWay::finish() {
  pending_->wait();
  for (std::int64_t r = 0; r < rows_.count(); ++r)
    if (r != rank_) rows_.take(rows_.row(r), flat_, r);
}

}  // namespace halftone
