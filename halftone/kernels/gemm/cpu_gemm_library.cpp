// SPDX-License-Identifier: Apache-2.0
// What libhalftone_cpu_gemm.so does when a program loads it.
#include <ATen/Version.h>
#include <c10/util/Exception.h>
#include <fmt/format.h>
#include <torch/version.h>

#include <exception>
#include <string>

#include "halftone/core/error.h"
#include "halftone/kernels/gemm/fast_cpu_gemms.h"
#include "halftone/kernels/gemm/gemm32_impl.h"

namespace halftone {
namespace {

/// Code compiled for another release may take the program's tensors and kernels for what they are
/// not.
void check_release() {
  const std::string config = at::show_config();
  const std::string mark = "TORCH_VERSION=";
  const std::size_t at = config.find(mark);
  const std::string release =
      at == config.npos ? "unknown"
                        : config.substr(at + mark.size(), config.find(',', at) - at - mark.size());
  if (release != TORCH_VERSION)
    throw UserError(
        fmt::format("expected LibTorch {}, for which it was built, got {}; build it with this "
                    "program's LibTorch",
                    TORCH_VERSION, release));
}

// An exception can't leave the initialisation of a library: the program would end.
[[maybe_unused]] const bool replaced = [] {
  try {
    check_release();
    return use_fast_cpu_gemms();
  } catch (const std::exception& error) {
    TORCH_WARN("libhalftone_cpu_gemm changes nothing: ", error.what());
    return false;
  }
}();

}  // namespace

void multiply32(const torch::Tensor& out, const torch::Tensor& a, const torch::Tensor& b,
                double beta, double factor, GemmLibrary library) {
  multiply32_cpu(out, a, b, beta, factor, library);
}

}  // namespace halftone
