// SPDX-License-Identifier: Apache-2.0
// How 16-bit matrices are multiplied on this CPU. A 16-bit GEMM without 16-bit instructions can be
// forty times slower than fp32, so the way is chosen by measurement, not by name; every way has the
// same inputs, rounded to the format, and accumulates in fp32.
#pragma once

#include <torch/types.h>

#include <string>
#include <string_view>

namespace halftone {

enum class MatmulPath {
  kNative,   // LibTorch's kernels for the dtype (oneDNN)
  kWidened,  // operands widened exactly to fp32, sgemm, the result rounded once
};

/// One dtype's ways, by direction.
struct MatmulPaths {
  MatmulPath forward = MatmulPath::kWidened;
  MatmulPath input_gradient = MatmulPath::kWidened;
  MatmulPath weight_gradient = MatmulPath::kWidened;
  MatmulPath attention = MatmulPath::kWidened;
  bool operator==(const MatmulPaths&) const = default;
};

struct MatmulChoice {
  MatmulPaths bf16;
  MatmulPaths fp16;
  bool operator==(const MatmulChoice&) const = default;
};

/// "bf16=native,fp16=widened", or with directions, "bf16.forward=widened"; parse_ reads the same,
/// and one word for everything ("widened"). What the text leaves out stays as in `base`.
std::string to_string(const MatmulChoice& choice);
std::string to_string(MatmulPath path);
MatmulChoice parse_matmul_choice(std::string_view text, const MatmulChoice& base = {});

/// The ways in force. The first call decides: the environment variable HALFTONE_MATMUL, else what
/// an earlier process measured on the same machine with the same libraries
/// (${XDG_CACHE_HOME:-~/.cache}/halftone/matmul.json), else a measurement of about half a second.
/// Thread-safe.
MatmulChoice matmul_paths();
/// Puts `choice` in force for the process, as a resumed run does: other ways, other bits.
void set_matmul_paths(const MatmulChoice& choice);

}  // namespace halftone
