// SPDX-License-Identifier: Apache-2.0
// In the place of int8_weights_vnni.cpp on processors that are not x86-64.
#include "halftone/core/error.h"
#include "halftone/kernels/gemm/int8_weights_impl.h"

namespace halftone {

bool has_int8_vnni() { return false; }

void int8_sums_vnni(const Int8Block& /*block*/, std::int32_t* /*sums*/) {
  HALFTONE_CHECK(false, "[int8] this build has no AVX-512 VNNI");
}

}  // namespace halftone
