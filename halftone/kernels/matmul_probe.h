// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "halftone/kernels/matmul_path.h"

namespace halftone {

/// Times every way on this machine, a few milliseconds each. Leaves random generators alone.
MatmulChoice measure_matmul_paths();

/// What an earlier process measured under the same conditions (processor, instruction-set caps in
/// the environment, LibTorch, threads), else a new measurement, which it then records. A record
/// that cannot be read or written is no error.
MatmulChoice measured_matmul_paths();

}  // namespace halftone
