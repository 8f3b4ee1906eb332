// SPDX-License-Identifier: Apache-2.0
#include "halftone/optim/gradient_sum.h"

#include <algorithm>
#include <utility>

#include "halftone/core/error.h"

namespace halftone {
namespace {

torch::ScalarType dtype_under_way(const torch::Tensor& gradients, GradientTransport transport) {
  const bool rounds = transport == GradientTransport::kBFloat16;
  return rounds && gradients.scalar_type() == torch::kFloat ? torch::kBFloat16
                                                            : gradients.scalar_type();
}

/// Row `first` becomes the sum of each step-th row from there on.
void add_rows(const torch::Tensor& rows, std::int64_t first = 0, std::int64_t step = 1) {
  if (first + step >= rows.size(0)) return;
  add_rows(rows, first, 2 * step);
  add_rows(rows, first + step, 2 * step);
  rows[first].add_(rows[first + step]);
}

}  // namespace

GradientSum::GradientSum(ProcessGroup& group, torch::Tensor gradients, std::vector<Range> pieces,
                         GradientTransport transport)
    : group_(group), gradients_(std::move(gradients)), pieces_(std::move(pieces)) {
  const torch::NoGradGuard no_grad;
  HALFTONE_CHECK(std::ssize(pieces_) == group.size(), "[gradient_sum] expected ", group.size(),
                 " pieces, one for each process, got ", pieces_.size());
  std::int64_t longest = 0;
  for (std::size_t r = 0; r < pieces_.size(); ++r) longest = std::max(longest, length(r));
  sent_ = torch::empty({group.size(), longest},
                       gradients_.options().dtype(dtype_under_way(gradients_, transport)));
  received_ = torch::empty_like(sent_);
  for (std::size_t r = 0; r < pieces_.size(); ++r) {
    const torch::Tensor row = sent_[static_cast<std::int64_t>(r)];
    row.narrow(0, 0, length(r)).copy_(piece(r));
    row.narrow(0, length(r), longest - length(r)).zero_();
  }
  pending_ = group_.all_to_all(received_, sent_);
}

torch::Tensor GradientSum::piece(std::size_t rank) const {
  return gradients_.narrow(0, pieces_[rank].begin, length(rank));
}

torch::Tensor GradientSum::added() const {
  const bool is_wide = received_.scalar_type() == torch::kDouble;
  const torch::Tensor rows = is_wide ? received_ : received_.to(torch::kFloat);
  add_rows(rows);
  return rows[0];
}

void GradientSum::add_up() {
  const torch::NoGradGuard no_grad;
  pending_->wait();
  // What was sent is not needed any more: its place takes the sums.
  const torch::Tensor own = sent_[group_.rank()];
  own.copy_(added());
  pending_ = group_.all_gather(sent_, own);
}

void GradientSum::finish() {
  const torch::NoGradGuard no_grad;
  pending_->wait();
  for (std::size_t r = 0; r < pieces_.size(); ++r)
    piece(r).copy_(sent_[static_cast<std::int64_t>(r)].narrow(0, 0, length(r)));
}

void GradientSum::finish_own() {
  const torch::NoGradGuard no_grad;
  pending_->wait();
  const auto rank = static_cast<std::size_t>(group_.rank());
  // Rounded as it would be if it were handed on.
  piece(rank).copy_(added().to(received_.scalar_type()).narrow(0, 0, length(rank)));
}

std::vector<Range> even_pieces(std::int64_t size, std::int64_t count) {
  std::vector<Range> pieces;
  for (std::int64_t r = 0; r < count; ++r)
    pieces.push_back({size * r / count, size * (r + 1) / count});
  return pieces;
}

}  // namespace halftone
