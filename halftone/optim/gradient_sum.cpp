// SPDX-License-Identifier: Apache-2.0
#include "halftone/optim/gradient_sum.h"

#include <utility>

#include "halftone/core/error.h"

namespace halftone {
namespace {

/// Row `first` becomes the sum of each step-th row from there on.
void add_rows(const torch::Tensor& rows, std::int64_t first = 0, std::int64_t step = 1) {
  if (first + step >= rows.size(0)) return;
  add_rows(rows, first, 2 * step);
  add_rows(rows, first + step, 2 * step);
  rows[first].add_(rows[first + step]);
}

}  // namespace

torch::ScalarType dtype_under_way(torch::ScalarType gradients, GradientTransport transport) {
  const bool rounds = transport == GradientTransport::kBFloat16 && gradients == torch::kFloat;
  return rounds ? torch::kBFloat16 : gradients;
}

GradientSum::GradientSum(ProcessGroup& group, torch::Tensor gradients, std::vector<Range> pieces,
                         GradientTransport transport)
    : group_(group), gradients_(std::move(gradients)) {
  const torch::NoGradGuard no_grad;
  HALFTONE_CHECK(std::ssize(pieces) == group.size(), "[gradient_sum] expected ", group.size(),
                 " pieces, one for each process, got ", pieces.size());
  sent_ = PieceRows(gradients_, std::move(pieces),
                    dtype_under_way(gradients_.scalar_type(), transport));
  received_ = torch::empty_like(sent_.all());
  for (std::int64_t r = 0; r < sent_.count(); ++r) sent_.put(gradients_, r);
  pending_ = group_.all_to_all(received_, sent_.all());
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
  const torch::Tensor own = sent_.row(group_.rank());
  own.copy_(added());
  pending_ = group_.all_gather(sent_.all(), own);
}

void GradientSum::finish() {
  const torch::NoGradGuard no_grad;
  pending_->wait();
  for (std::int64_t r = 0; r < sent_.count(); ++r) sent_.take(sent_.row(r), gradients_, r);
}

void GradientSum::finish_own() {
  const torch::NoGradGuard no_grad;
  pending_->wait();
  // Rounded as it would be if it were handed on.
  sent_.take(added().to(received_.scalar_type()), gradients_, group_.rank());
}

std::vector<Range> even_pieces(std::int64_t size, std::int64_t count) {
  std::vector<Range> pieces;
  for (std::int64_t r = 0; r < count; ++r)
    pieces.push_back({size * r / count, size * (r + 1) / count});
  return pieces;
}

}  // namespace halftone
