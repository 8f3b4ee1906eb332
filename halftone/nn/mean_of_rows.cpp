// SPDX-License-Identifier: Apache-2.0
#include "halftone/nn/mean_of_rows.h"

#include "halftone/core/error.h"

namespace halftone {

torch::Tensor mean_of_rows(const torch::Tensor& x, const torch::Tensor& lengths) {
  HALFTONE_CHECK(x.dim() == 3 && (!lengths.defined() || lengths.sizes() == x.sizes().slice(0, 1)),
                 "[mean_of_rows] expected (B, T, D) and (B) lengths, got ", x.sizes(), " and ",
                 lengths.defined() ? c10::str(lengths.sizes()) : "none");
  if (!lengths.defined()) return x.mean(1);
  const torch::Tensor counts =
      torch::arange(x.size(1), lengths.options()).unsqueeze(0) < lengths.unsqueeze(1);
  return (x * counts.unsqueeze(2)).sum(1) / lengths.unsqueeze(1);
}

}  // namespace halftone
