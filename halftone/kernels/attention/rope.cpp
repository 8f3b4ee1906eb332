// SPDX-License-Identifier: Apache-2.0
#include "halftone/kernels/attention/rope.h"

#include <ATen/autocast_mode.h>
#include <ATen/ops/view_as_complex.h>
#include <ATen/ops/view_as_real.h>

#include <cstdint>

namespace halftone {

using torch::Tensor;

namespace {

/// LibTorch takes two numbers for a complex one where they lie side by side, at an even place.
Tensor as_complex(const Tensor& pairs) {
  bool lie_so = pairs.stride(-1) == 1 && pairs.storage_offset() % 2 == 0;
  for (std::int64_t i = 0; i + 1 < pairs.dim(); ++i) lie_so = lie_so && pairs.stride(i) % 2 == 0;
  return at::view_as_complex(lie_so ? pairs : pairs.clone(at::MemoryFormat::Contiguous));
}

}  // namespace

Tensor apply_rope(const Tensor& x, const Tensor& rotations) {
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  const Tensor pairs = x.to(torch::kFloat).unflatten(-1, {-1, 2});
  const Tensor rotated = as_complex(pairs) * rotations.unsqueeze(1);
  return at::view_as_real(rotated).flatten(-2).to(x.scalar_type());
}

}  // namespace halftone
