// SPDX-License-Identifier: Apache-2.0
// LibTorch's dtypes in the words of this project.
#pragma once

#include <torch/types.h>

#include <string>

namespace halftone {

/// Whether `dtype` is one of the two 16-bit float formats, bf16 and fp16.
inline bool is_half(torch::ScalarType dtype) {
  return dtype == torch::kBFloat16 || dtype == torch::kHalf;
}

/// "fp32", "bf16", "fp16"; LibTorch's name ("Double", "Long") of any other.
inline std::string dtype_name(torch::ScalarType dtype) {
  switch (dtype) {
    case torch::kFloat:
      return "fp32";
    case torch::kBFloat16:
      return "bf16";
    case torch::kHalf:
      return "fp16";
    default:
      return c10::toString(dtype);
  }
}

}  // namespace halftone
