// SPDX-License-Identifier: Apache-2.0
// The processor, as Linux describes it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace halftone {

/// Instructions of a CPU that multiply 16-bit numbers: x86-64's, and Arm's.
struct CpuFeatures {
  bool avx512_bf16 = false;
  bool avx512_fp16 = false;
  bool amx_bf16 = false;
  bool amx_fp16 = false;
  bool neon_bf16 = false;
  bool neon_fp16 = false;
  bool operator==(const CpuFeatures&) const = default;

  bool multiplies_bf16() const { return avx512_bf16 || amx_bf16 || neon_bf16; }
  bool multiplies_fp16() const { return avx512_fp16 || amx_fp16 || neon_fp16; }
};

/// The design of an x86-64 CPU, by its maker's numbers.
struct ProcessorModel {
  std::string vendor;  ///< "AuthenticAMD", "GenuineIntel"
  int family = 0, model = 0;
};

struct Processor {
  std::string name;  ///< "AMD EPYC"; empty where the system does not say
  ProcessorModel model;
  std::int64_t cores = 0;    ///< physical ones
  std::int64_t threads = 0;  ///< of the hardware: more than cores with simultaneous threads
  /// Those that matter to training, in the order of their age: "AVX2", "AVX512_BF16", "NEON".
  std::vector<std::string> instruction_sets;
  CpuFeatures features;
  bool is_virtual = false;  ///< a hypervisor runs below the system
  /// Family, model, stepping and a hash of all flags. The same name can stand for machines whose
  /// hypervisors pass on different instructions.
  std::string signature;
};

/// From the text of Linux's /proc/cpuinfo, x86-64's or Arm's. All processors have the flags of the
/// first.
Processor parse_processor(std::string_view cpuinfo);
/// `processor` with the instructions that Linux tells each process of on Arm (getauxval() of
/// AT_HWCAP and AT_HWCAP2) in the place of those of the text: an emulator shows its host's text.
Processor with_arm_features(Processor processor, std::uint64_t hwcap, std::uint64_t hwcap2);
/// This machine's, as the system lets programs use it. Read once.
const Processor& this_processor();

}  // namespace halftone
