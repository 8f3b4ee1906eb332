// SPDX-License-Identifier: Apache-2.0
// How matrices are multiplied on this CPU. A 16-bit GEMM without 16-bit instructions can be forty
// times slower than fp32, so the way is chosen by measurement, not by name; every way has the same
// inputs, rounded to the format, and accumulates in fp32.
#pragma once

#include <torch/types.h>

#include <optional>
#include <string>
#include <string_view>

namespace halftone {

enum class MatmulPath {
  kNative,   // LibTorch's kernels for the dtype (oneDNN)
  kWidened,  // operands widened exactly to fp32, sgemm, the result rounded once
};

/// One dtype's ways, by product. A transposed convolution is the input gradient of another one and
/// goes its way; its own input gradient goes the way of `convolution`.
struct MatmulPaths {
  MatmulPath forward = MatmulPath::kWidened;
  MatmulPath input_gradient = MatmulPath::kWidened;
  MatmulPath weight_gradient = MatmulPath::kWidened;
  MatmulPath attention = MatmulPath::kWidened;
  MatmulPath convolution = MatmulPath::kWidened;
  MatmulPath convolution_input_gradient = MatmulPath::kWidened;
  MatmulPath convolution_weight_gradient = MatmulPath::kWidened;
  bool operator==(const MatmulPaths&) const = default;
};

/// The library of fp32 matmuls. It also multiplies operands that were upcast to fp32.
enum class GemmLibrary {
  kBlas,    // LibTorch's at::mm: MKL, or the BLAS it was built with
  kOneDnn,  // gemm32.h
};

struct MatmulChoice {
  MatmulPaths bf16;
  MatmulPaths fp16;
  GemmLibrary fp32 = GemmLibrary::kBlas;
  /// The ways of `dtype`. REQUIRES bf16 or fp16.
  MatmulPaths of(torch::ScalarType dtype) const { return dtype == torch::kBFloat16 ? bf16 : fp16; }
  bool operator==(const MatmulChoice&) const = default;
};

/// "bf16=native,fp16=widened,fp32=onednn", or with directions, "bf16.forward=widened"; parse_ reads
/// the same, one word for everything in 16 bits ("widened") and one for fp32 ("blas"). What the
/// text leaves out stays as in `base`.
std::string to_string(const MatmulChoice& choice);
/// `paths` as a model without convolutions shows them: these follow the forward product.
MatmulPaths without_convolutions(MatmulPaths paths);
/// One dtype's ways: "native", or with directions that differ, "native, attention=widened".
std::string to_string(const MatmulPaths& paths);
std::string to_string(MatmulPath path);
std::string to_string(GemmLibrary library);
MatmulChoice parse_matmul_choice(std::string_view text, const MatmulChoice& base = {});

/// The ways in force. The first call decides: the environment variable HALFTONE_MATMUL, else what
/// an earlier process measured on the same machine with the same libraries
/// (${XDG_CACHE_HOME:-~/.cache}/halftone/matmul.json), else a measurement of less than a second.
/// Thread-safe.
MatmulChoice matmul_paths();
/// The ways in force where the process has asked for them, which it has not before its first
/// product on a CPU; never measures. Thread-safe.
std::optional<MatmulChoice> decided_matmul_paths();
/// Puts `choice` in force for the process, as a resumed run does: other ways, other bits.
void set_matmul_paths(const MatmulChoice& choice);

}  // namespace halftone
