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

enum class GemmBackend {
  kNative,  // LibTorch's kernels for the dtype (oneDNN)
  kUpcast,  // operands upcast exactly to fp32, sgemm, the result rounded once
};

/// One dtype's ways, by matmul. A transposed convolution is the input gradient of another one and
/// goes its way; its own input gradient goes the way of `convolution`.
struct GemmBackends {
  GemmBackend forward = GemmBackend::kUpcast;
  GemmBackend input_gradient = GemmBackend::kUpcast;
  GemmBackend weight_gradient = GemmBackend::kUpcast;
  GemmBackend attention = GemmBackend::kUpcast;
  GemmBackend convolution = GemmBackend::kUpcast;
  GemmBackend convolution_input_gradient = GemmBackend::kUpcast;
  GemmBackend convolution_weight_gradient = GemmBackend::kUpcast;
  bool operator==(const GemmBackends&) const = default;
};

/// The library of fp32 matmuls. It also multiplies operands that were upcast to fp32.
enum class GemmLibrary {
  kBlas,    // LibTorch's at::mm: MKL, or the BLAS it was built with
  kOneDnn,  // gemm32.h
};

struct CpuGemmConfig {
  GemmBackends bf16;
  GemmBackends fp16;
  GemmLibrary fp32 = GemmLibrary::kBlas;
  /// The ways of `dtype`. REQUIRES bf16 or fp16.
  GemmBackends of(torch::ScalarType dtype) const { return dtype == torch::kBFloat16 ? bf16 : fp16; }
  bool operator==(const CpuGemmConfig&) const = default;
};

/// "bf16=native,fp16=upcast,fp32=onednn", or with directions, "bf16.forward=upcast"; parse_ reads
/// the same, one word for everything in 16 bits ("upcast") and one for fp32 ("blas"). What the
/// text leaves out stays as in `base`.
std::string to_string(const CpuGemmConfig& choice);
/// `paths` as a model without convolutions shows them: these follow the forward matmul.
GemmBackends without_convolutions(GemmBackends paths);
/// One dtype's ways: "native", or with directions that differ, "native, attention=upcast".
std::string to_string(const GemmBackends& paths);
std::string to_string(GemmBackend path);
std::string to_string(GemmLibrary library);
CpuGemmConfig parse_cpu_gemm_config(std::string_view text, const CpuGemmConfig& base = {});

/// The ways in force. The first call decides: the environment variable HALFTONE_MATMUL, else what
/// an earlier process measured on the same machine with the same libraries
/// (${XDG_CACHE_HOME:-~/.cache}/halftone/matmul.json), else a measurement of less than a second.
/// Thread-safe.
CpuGemmConfig cpu_gemm_config();
/// The ways in force where the process has asked for them, which it has not before its first
/// matmul on a CPU; never measures. Thread-safe.
std::optional<CpuGemmConfig> decided_matmul_paths();
/// Puts `choice` in force for the process, as a resumed run does: other ways, other bits.
void set_cpu_gemm_config(const CpuGemmConfig& choice);
/// Puts in force what `text` names, as parse_cpu_gemm_config() reads it, the rest being measured;
/// "auto" leaves the ways as they are, and so does the environment variable, which goes first. For
/// configurations. Throws UserError.
void configure_cpu_gemms(std::string_view text);

/// Whether LibTorch's own attention can compute in `dtype`, bf16 or fp16, in this process. On a CPU
/// whose oneDNN packs the dtype (AMX, AVX512_FP16) it ends the process where ATEN_CPU_CAPABILITY
/// keeps LibTorch below AVX512: its packing is compiled for AVX512 alone (2.15).
bool has_native_attention(torch::ScalarType dtype);

}  // namespace halftone
