// SPDX-License-Identifier: Apache-2.0
#include "halftone/nn/mean_of_rows.h"

#include "halftone/core/error.h"
#include "halftone/core/sequence_mask.h"

namespace halftone {

torch::Tensor mean_of_rows(const torch::Tensor& x, const torch::Tensor& lengths) {
  HALFTONE_CHECK(x.dim() == 3 && (!lengths.defined() || lengths.sizes() == x.sizes().slice(0, 1)),
                 "[mean_of_rows] expected (B, T, D) and (B) lengths, got ", x.sizes(), " and ",
                 lengths.defined() ? c10::str(lengths.sizes()) : "none");
  if (!lengths.defined()) return x.mean(1);
  return (x * sequence_mask(lengths, x.size(1)).unsqueeze(2)).sum(1) / lengths.unsqueeze(1);
}

}  // namespace halftone
