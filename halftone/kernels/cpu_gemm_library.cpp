// SPDX-License-Identifier: Apache-2.0
// What libhalftone_cpu_gemm.so does when a program loads it.
#include <c10/util/Exception.h>

#include <exception>

#include "halftone/kernels/fast_cpu_gemms.h"

namespace halftone {
namespace {

// An exception can't leave the initialisation of a library: the program would end.
[[maybe_unused]] const bool replaced = [] {
  try {
    return use_fast_cpu_gemms();
  } catch (const std::exception& error) {
    TORCH_WARN("libhalftone_cpu_gemm changes nothing: ", error.what());
    return false;
  }
}();

}  // namespace
}  // namespace halftone
