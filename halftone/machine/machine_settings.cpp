// SPDX-License-Identifier: Apache-2.0
#include "halftone/machine/machine_settings.h"

#include <ATen/Context.h>
#include <ATen/Version.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <sstream>

#include "halftone/system/processor.h"

namespace halftone {
namespace {

constexpr std::array<const char*, 24> kVariables{"ATEN_CPU_CAPABILITY",
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
                                                 "OMP_DYNAMIC",
                                                 "OMP_THREAD_LIMIT",
                                                 "GOMP_CPU_AFFINITY",
                                                 "GOMP_SPINCOUNT",
                                                 "KMP_AFFINITY",
                                                 "KMP_BLOCKTIME",
                                                 "MKL_NUM_THREADS",
                                                 "GLIBC_TUNABLES",
                                                 "HALFTONE_MATMUL",
                                                 "HALFTONE_CPU_GEMM",
                                                 "HALFTONE_REFERENCE_KERNELS",
                                                 "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE"};

std::string text_in(const std::filesystem::path& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

std::string first_word_of(const std::string& text) {
  std::istringstream words(text);
  std::string word;
  words >> word;
  return word;
}

int number_of(std::string_view text) { return std::atoi(std::string(text).c_str()); }

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

// Of cgroups' version 2, "200000 100000"; of version 1 each in a file.
double quota_of(const std::filesystem::path& group) {
  std::istringstream text(text_in(group / "cpu.max"));
  double quota = 0, period = 0;
  if (text >> quota >> period && quota > 0 && period > 0) return quota / period;
  std::istringstream first(text_in(group / "cpu.cfs_quota_us") + " " +
                           text_in(group / "cpu.cfs_period_us"));
  if (first >> quota >> period && quota > 0 && period > 0) return quota / period;
  return 0;
}

double tighter(double a, double b) {
  if (a == 0 || b == 0) return a + b;
  return std::min(a, b);
}

}  // namespace

ProcessorModel parse_processor_model(std::string_view cpuinfo) {
  ProcessorModel processor;
  for_each_entry(cpuinfo, [&](std::string_view key, std::string_view value) {
    if (key == "vendor_id" && processor.vendor.empty()) processor.vendor = value;
    if (key == "cpu family" && processor.family == 0) processor.family = number_of(value);
    if (key == "model" && processor.model == 0) processor.model = number_of(value);
    if (key == "flags") {
      std::istringstream words{std::string(value)};
      for (std::string word; words >> word;)
        processor.is_virtual = processor.is_virtual || word == "hypervisor";
    }
  });
  return processor;
}

double cpu_quota_in(const std::filesystem::path& root, std::string_view groups) {
  double quota = 0;
  for_each_entry(groups, [&](std::string_view hierarchy, std::string_view rest) {
    const std::size_t colon = rest.find(':');
    if (colon == std::string_view::npos) return;
    const std::string_view controllers = rest.substr(0, colon);
    const bool second = hierarchy == "0" && controllers.empty();
    const bool first = controllers == "cpu" || controllers == "cpu,cpuacct";
    if (!second && !first) return;
    const std::filesystem::path top = first ? root / "cpu" : root;
    for (std::filesystem::path below =
             std::filesystem::path(std::string(rest.substr(colon + 1))).relative_path();
         ; below = below.parent_path()) {
      quota = tighter(quota, quota_of(top / below));
      if (below.empty()) break;
    }
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
  settings.processor = parse_processor_model(text_in("/proc/cpuinfo"));
  settings.allowed_cpus = affinity_cpus();
  settings.cpu_quota = cpu_quota_in("/sys/fs/cgroup", text_in("/proc/self/cgroup"));
  settings.governor =
      first_word_of(text_in("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"));
  settings.large_pages = chosen_word(text_in("/sys/kernel/mm/transparent_hugepage/enabled"));
  settings.amx_is_granted = amx_granted();
  settings.libtorch_capability = at::get_cpu_capability();
  settings.fp32_matmul = fp32_matmul_setting();
  return settings;
}

}  // namespace halftone
