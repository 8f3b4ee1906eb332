// SPDX-License-Identifier: Apache-2.0
#include "halftone/machine/machine_settings.h"

#include <ATen/Context.h>
#include <ATen/Version.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <sstream>

#include "halftone/machine/control_groups_impl.h"
#include "halftone/system/system_text_impl.h"

namespace halftone {
namespace {

constexpr std::array<const char*, 18> kVariables{"ATEN_CPU_CAPABILITY",
                                                 "DNNL_MAX_CPU_ISA",
                                                 "ONEDNN_MAX_CPU_ISA",
                                                 "DNNL_DEFAULT_FPMATH_MODE",
                                                 "ONEDNN_DEFAULT_FPMATH_MODE",
                                                 "MKL_ENABLE_INSTRUCTIONS",
                                                 "MKL_CBWR",
                                                 "OPENBLAS_CORETYPE",
                                                 "OMP_NUM_THREADS",
                                                 "OMP_WAIT_POLICY",
                                                 "OMP_PROC_BIND",
                                                 "OMP_PLACES",
                                                 "GOMP_CPU_AFFINITY",
                                                 "KMP_AFFINITY",
                                                 "KMP_BLOCKTIME",
                                                 "GLIBC_TUNABLES",
                                                 "HALFTONE_CPU_GEMM",
                                                 "HALFTONE_REFERENCE_KERNELS"};

std::string first_word_of(const std::string& text) {
  std::istringstream words(text);
  std::string word;
  words >> word;
  return word;
}

std::int64_t affinity_cpus() {
  cpu_set_t cpus;
  CPU_ZERO(&cpus);
  return ::sched_getaffinity(0, sizeof cpus, &cpus) == 0 ? CPU_COUNT(&cpus) : 0;
}

// Tiles hold 8 KiB of state that the kernel must have room for: it grants them on demand.
bool amx_granted() {
#if defined(__x86_64__)
  constexpr long kGetSupported = 0x1021;  // ARCH_GET_XCOMP_SUPP
  constexpr std::uint64_t kTileData = std::uint64_t{1} << 18U;
  std::uint64_t features = 0;
  return ::syscall(SYS_arch_prctl, kGetSupported, &features) == 0 && (features & kTileData) != 0;
#else
  return true;
#endif
}

std::string fp32_matmul_setting() {
  const std::string set = at::precision2str(
      at::globalContext().float32Precision(at::Float32Backend::MKLDNN, at::Float32Op::MATMUL));
  return set.empty() || set == "none" || set == "default" ? "ieee" : set;
}

double quota_of(const std::filesystem::path& group, bool is_first_version) {
  // Version 2 has "200000 100000" in one file, version 1 each number in its own.
  std::istringstream text(is_first_version ? system_text(group / "cpu.cfs_quota_us") + " " +
                                                 system_text(group / "cpu.cfs_period_us")
                                           : system_text(group / "cpu.max"));
  double quota = 0, period = 0;
  return text >> quota >> period && quota > 0 && period > 0 ? quota / period : 0;
}

double tighter(double a, double b) {
  if (a == 0 || b == 0) return a + b;
  return std::min(a, b);
}

}  // namespace

std::int64_t usable_cpus(const MachineSettings& settings) {
  auto cpus = static_cast<double>(std::max<std::int64_t>(1, settings.allowed_cpus));
  if (settings.cpu_quota > 0) cpus = std::min(cpus, std::ceil(settings.cpu_quota));
  return static_cast<std::int64_t>(cpus);
}

double cpu_quota_in(const std::filesystem::path& root, std::string_view groups) {
  double quota = 0;
  for_each_control_group(root, groups, "cpu",
                         [&](const std::filesystem::path& group, bool is_first_version) {
                           quota = tighter(quota, quota_of(group, is_first_version));
                         });
  return quota;
}

std::string chosen_word(std::string_view text) {
  const std::size_t begin = text.find('['), end = text.find(']', begin == text.npos ? 0 : begin);
  if (begin == text.npos || end == text.npos) return "";
  return std::string(text.substr(begin + 1, end - begin - 1));
}

MachineSettings machine_settings() {
  MachineSettings settings;
  for (const char* name : kVariables)
    if (const char* const value = std::getenv(name)) settings.environment[name] = value;
  settings.allowed_cpus = affinity_cpus();
  settings.cpu_quota = cpu_quota_in("/sys/fs/cgroup", system_text("/proc/self/cgroup"));
  settings.governor =
      first_word_of(system_text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"));
  settings.large_pages = chosen_word(system_text("/sys/kernel/mm/transparent_hugepage/enabled"));
  settings.amx_is_granted = amx_granted();
  settings.libtorch_capability = at::get_cpu_capability();
  settings.fp32_matmul = fp32_matmul_setting();
  return settings;
}

}  // namespace halftone
