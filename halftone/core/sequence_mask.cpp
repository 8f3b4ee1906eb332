// SPDX-License-Identifier: Apache-2.0
#include "halftone/core/sequence_mask.h"

#include "halftone/core/error.h"

namespace halftone {

torch::Tensor sequence_mask(const torch::Tensor& lengths, std::int64_t longest) {
  HALFTONE_CHECK(lengths.dim() == 1 && lengths.scalar_type() == torch::kLong,
                 "[sequence_mask] expected lengths (B) of int64, got ", lengths.sizes(), " of ",
                 lengths.scalar_type());
  return at::arange(longest, lengths.options()).unsqueeze(0) < lengths.unsqueeze(1);
}

}  // namespace halftone
