// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string_view>

namespace halftone {

/// Instructions of an x86-64 CPU that multiply 16-bit numbers.
struct CpuFeatures {
  bool avx512_bf16 = false;
  bool avx512_fp16 = false;
  bool amx_bf16 = false;
  bool amx_fp16 = false;
  bool operator==(const CpuFeatures&) const = default;

  bool multiplies_bf16() const { return avx512_bf16 || amx_bf16; }
  bool multiplies_fp16() const { return avx512_fp16 || amx_fp16; }
};

/// What this machine's CPU has and its system lets programs use; none where the system does not
/// say.
const CpuFeatures& cpu_features();

/// The same from the text of Linux's /proc/cpuinfo.
CpuFeatures parse_cpu_features(std::string_view cpuinfo);

}  // namespace halftone
