// SPDX-License-Identifier: Apache-2.0
#include "halftone/kernels/gemm/matmul_environment.h"

#include <fmt/format.h>

#include <cstdlib>

#include "halftone/core/error.h"
#include "halftone/kernels/gemm/cpu_gemm_config.h"

namespace halftone {

std::string matmul_environment() {
  const char* const text = std::getenv("HALFTONE_MATMUL");
  if (text == nullptr || *text == '\0') return "";
  try {
    parse_cpu_gemm_config(text);
  } catch (const UserError& error) {
    throw UserError(fmt::format("environment variable HALFTONE_MATMUL: {}", error.what()));
  }
  return text;
}

}  // namespace halftone
