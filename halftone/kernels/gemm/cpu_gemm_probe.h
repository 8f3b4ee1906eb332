// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "halftone/kernels/gemm/cpu_gemm_config.h"

namespace halftone {

/// The two ways of one matmul as they were timed on one thread: the least of several rounds.
struct MatmulTiming {
  std::string product;  ///< "bf16.forward", "fp16.attention"
  double native_ms = 0;
  double upcast_ms = 0;
  /// On a problem of a quarter of each size: there the native way was slow beyond hope, and was not
  /// tried on the real one.
  bool small = false;
};

/// A layer's three fp32 matmuls by each library, timed alike.
struct LibraryTiming {
  double blas_ms = 0;
  double onednn_ms = 0;  ///< 0: has_onednn_gemm32() is false
};

struct MatmulMeasurement {
  CpuGemmConfig choice;
  std::vector<MatmulTiming> timings;
  LibraryTiming fp32;
  bool recorded = false;  ///< by an earlier process or call
};

/// Times every way on this machine, a few milliseconds each. Leaves random generators alone.
MatmulMeasurement measure_matmul_paths();

enum class MatmulRecord { kUse, kReplace };

/// Returns the record of an earlier process under the same conditions: processor, instruction-set
/// caps, LibTorch, threads. Without one, or with kReplace, measures and records. A record that
/// cannot be read or written is not an error.
MatmulMeasurement measured_cpu_gemm_config(MatmulRecord record = MatmulRecord::kUse);

/// The file of the measurements. It need not exist.
std::filesystem::path matmul_record_path();

}  // namespace halftone
