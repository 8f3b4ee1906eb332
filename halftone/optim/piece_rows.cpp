// SPDX-License-Identifier: Apache-2.0
#include "halftone/optim/piece_rows.h"

#include <algorithm>
#include <utility>

namespace halftone {

std::int64_t longest_piece(const std::vector<Range>& pieces) {
  std::int64_t longest = 0;
  for (const Range& piece : pieces) longest = std::max(longest, piece.end - piece.begin);
  return longest;
}

PieceRows::PieceRows(const torch::Tensor& flat, std::vector<Range> pieces, torch::ScalarType dtype)
    : pieces_(std::move(pieces)),
      rows_(torch::empty({std::ssize(pieces_), longest_piece(pieces_)},
                         flat.options().dtype(dtype))) {}

torch::Tensor PieceRows::piece(const torch::Tensor& flat, std::int64_t rank) const {
  const Range& range = pieces_.at(static_cast<std::size_t>(rank));
  return flat.narrow(0, range.begin, range.end - range.begin);
}

void PieceRows::put(const torch::Tensor& flat, std::int64_t rank) const {
  const torch::Tensor own = piece(flat, rank);
  const torch::Tensor place = row(rank);
  place.narrow(0, 0, own.numel()).copy_(own);
  place.narrow(0, own.numel(), place.numel() - own.numel()).zero_();
}

void PieceRows::take(const torch::Tensor& row, const torch::Tensor& flat, std::int64_t rank) const {
  const torch::Tensor own = piece(flat, rank);
  own.copy_(row.narrow(0, 0, own.numel()));
}

}  // namespace halftone
