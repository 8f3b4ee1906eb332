// SPDX-License-Identifier: Apache-2.0
#include "halftone/kernels/attention/rope.h"

#include <ATen/autocast_mode.h>
#include <ATen/ops/view_as_complex.h>
#include <ATen/ops/view_as_real.h>

namespace halftone {

using torch::Tensor;

Tensor apply_rope(const Tensor& x, const Tensor& rotations) {
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  const Tensor pairs = x.to(torch::kFloat).unflatten(-1, {-1, 2});
  const Tensor rotated = at::view_as_complex(pairs) * rotations.unsqueeze(1);
  return at::view_as_real(rotated).flatten(-2).to(x.scalar_type());
}

}  // namespace halftone
