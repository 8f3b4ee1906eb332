// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

namespace halftone {

/// What the environment variable HALFTONE_MATMUL holds, as parse_cpu_gemm_config() reads it; empty
/// where it is unset. Throws UserError, which names the variable, for anything else.
std::string matmul_environment();

}  // namespace halftone
