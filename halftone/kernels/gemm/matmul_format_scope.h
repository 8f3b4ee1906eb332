// SPDX-License-Identifier: Apache-2.0
// Formats in the place of the library's own: how others see the matmuls of layers.
#pragma once

#include "halftone/kernels/gemm/compute_type.h"

namespace halftone {

/// The library's own, whatever scopes there are.
const MatmulFormat& library_format(ComputeType type);

/// In its scope, this thread's matmul_format() gives what `stand_in` gives, such as a format that
/// counts and hands on to library_format(). Operands go only to the format that made them: layers
/// that ran before the scope must not run backward in it.
class MatmulFormatScope {
 public:
  using StandIn = const MatmulFormat& (*)(ComputeType type);

  explicit MatmulFormatScope(StandIn stand_in);
  ~MatmulFormatScope();
  MatmulFormatScope(const MatmulFormatScope&) = delete;
  MatmulFormatScope& operator=(const MatmulFormatScope&) = delete;

 private:
  StandIn before_;
};

}  // namespace halftone
