// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <vector>

#include "halftone/kernels/optimizer/gradient_stats.h"

namespace halftone {

std::int64_t longest_piece(const std::vector<Range>& pieces);

/// Pieces of a flat tensor, one for each process, as rows of one length: what a collective
/// operation takes. What is behind a shorter piece is zero or belongs to nobody.
class PieceRows {
 public:
  PieceRows() = default;
  /// Uninitialised rows of `dtype`, on the device of `flat`.
  PieceRows(const torch::Tensor& flat, std::vector<Range> pieces, torch::ScalarType dtype);

  const torch::Tensor& all() const { return rows_; }  // (processes, longest piece)
  torch::Tensor row(std::int64_t rank) const { return rows_[rank]; }
  std::int64_t count() const { return std::ssize(pieces_); }

  /// The piece of `flat` that is a process's.
  torch::Tensor piece(const torch::Tensor& flat, std::int64_t rank) const;
  /// Copies that piece into its row, and zeros behind it.
  void put(const torch::Tensor& flat, std::int64_t rank) const;
  /// Copies `row` into that piece.
  void take(const torch::Tensor& row, const torch::Tensor& flat, std::int64_t rank) const;

 private:
  std::vector<Range> pieces_;
  torch::Tensor rows_;
};

}  // namespace halftone
