// SPDX-License-Identifier: Apache-2.0
#include "halftone/machine/findings.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <optional>

#include "halftone/kernels/gemm/compute_type.h"

namespace halftone {
namespace {

constexpr double kWorthSaying = 1.1;     // a gain
constexpr double kSlowLoop = 30e-6;      // seconds, of an empty parallel loop
constexpr double kPoorScaling = 0.6;     // of one thread's speed, by each
constexpr double kMatmulsOfStep = 0.75;  // of an fp32 step's time (minimind-26m, measured)

using Findings = std::vector<Finding>;

std::optional<std::string> set_in(const MachineSettings& settings, const char* name) {
  const auto found = settings.environment.find(name);
  if (found == settings.environment.end()) return std::nullopt;
  return found->second;
}

bool has_set(const Processor& processor, std::string_view name) {
  const auto& sets = processor.instruction_sets;
  return std::find(sets.begin(), sets.end(), name) != sets.end();
}

double speed_at(const Examination& e, std::int64_t threads) {
  for (const ThreadSpeed& speed : e.thread_speeds)
    if (speed.threads == threads) return speed.gflops;
  return 0;
}

const ThreadSpeed* fastest(const Examination& e) {
  const auto found = std::max_element(
      e.thread_speeds.begin(), e.thread_speeds.end(),
      [](const ThreadSpeed& a, const ThreadSpeed& b) { return a.gflops < b.gflops; });
  return found == e.thread_speeds.end() ? nullptr : &*found;
}

std::string threads_text(std::int64_t count) {
  return fmt::format("{} thread{}", count, count == 1 ? "" : "s");
}

void add_precision(const Examination& e, Findings& findings) {
  const auto best = std::find_if(e.layers.begin(), e.layers.end(), [&](const LayerSpeed& layer) {
    return fp32_weights_precision(layer.compute) == e.recommended;
  });
  if (best == e.layers.end()) return;
  const double matmuls = best->seconds / e.layers.front().seconds;
  const double gain = 1 / (1 - kMatmulsOfStep + kMatmulsOfStep * matmuls);
  if (gain < kWorthSaying) return;
  findings.push_back(
      {"precision",
       fmt::format(
           "a layer's matmuls take {:.2f} of their fp32 time in {} (1024 x 512 x 1408, with "
           "all casts), so that a step in 32-true takes about {:.1f} times as long",
           matmuls, e.recommended, gain),
       fmt::format("train with --precision {}", e.recommended), gain});
}

void add_threads(const Examination& e, Findings& findings) {
  const ThreadSpeed* const best = fastest(e);
  const double now = speed_at(e, e.threads);
  if (best == nullptr || now <= 0) return;
  const double gain = best->gflops / now;
  if (best->threads != e.threads && gain >= kWorthSaying) {
    const auto limited = set_in(e.settings, "OMP_NUM_THREADS");
    findings.push_back(
        {"threads",
         fmt::format(
             "an fp32 matmul runs at {:.0f} GFLOP/s on the {} that LibTorch takes{}, and at "
             "{:.0f} on {}{}",
             now, threads_text(e.threads),
             limited ? fmt::format(" (OMP_NUM_THREADS={})", *limited) : "", best->gflops,
             best->threads,
             best->threads == e.processor.cores && e.threads > best->threads ? ", one a core" : ""),
         fmt::format("train with --threads {}", best->threads), gain});
  }
  const double one = speed_at(e, 1);
  const auto cores = std::min(e.processor.cores, e.threads);
  const double at_cores = speed_at(e, cores);
  if (cores > 1 && one > 0 && at_cores > 0 &&
      at_cores < kPoorScaling * one * static_cast<double>(cores))
    findings.push_back({"scaling",
                        fmt::format("{} threads on {} cores are only {:.1f} times as fast as one",
                                    cores, e.processor.cores, at_cores / one),
                        "look for other programs that compute, for threads that are bound to one "
                        "core, and for cores "
                        "that a host shares among its guests",
                        0});
}

void add_limits(const Examination& e, Findings& findings) {
  const double quota = e.settings.cpu_quota;
  if (quota > 0 && quota < static_cast<double>(e.threads))
    findings.push_back(
        {"quota",
         fmt::format(
             "the process's control group allows it {:.1f} CPUs' worth of time, but LibTorch "
             "takes {}: all of them are stopped for a part of each period",
             quota, threads_text(e.threads)),
         fmt::format("train with --threads {:.0f}, or raise the limit of the container",
                     std::max(1.0, std::floor(quota))),
         0});
  const std::int64_t allowed = e.settings.allowed_cpus;
  if (allowed > 0 && allowed < e.processor.threads)
    findings.push_back(
        {"affinity",
         fmt::format("the process may run on {} of the machine's {} hardware threads", allowed,
                     e.processor.threads),
         "lift the limit (taskset, cpuset of the container) if it is not meant", 0});
}

void add_openmp(const Examination& e, Findings& findings) {
  const MachineSettings& settings = e.settings;
  if (const auto policy = set_in(settings, "OMP_WAIT_POLICY"))
    findings.push_back(
        {"openmp",
         fmt::format("OMP_WAIT_POLICY={}: {}; an empty parallel loop takes {:.0f} us", *policy,
                     *policy == "active" || *policy == "ACTIVE"
                         ? "threads that wait keep their cores from other programs"
                         : "threads that wait sleep, and each loop must wake them",
                     1e6 * e.parallel_loop_s),
         "leave it unset: halftone lets threads spin for about 0.1 ms", 0});
  else if (e.parallel_loop_s > kSlowLoop && e.threads > 1)
    findings.push_back(
        {"openmp",
         fmt::format("an empty parallel loop takes {:.0f} us on {}, and a step has hundreds",
                     1e6 * e.parallel_loop_s, threads_text(e.threads)),
         "end other programs that compute, or leave cores to them with --threads", 0});
  for (const char* name : {"OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY"})
    if (const auto value = set_in(settings, name))
      findings.push_back(
          {"binding",
           fmt::format("{}={} binds threads to cores, all of this process's and those "
                       "of any other with the same setting",
                       name, *value),
           "unset it unless each process has cores of its own", 0});
  for (const char* name : {"KMP_AFFINITY", "KMP_BLOCKTIME"})
    if (const auto value = set_in(settings, name))
      findings.push_back({"binding",
                          fmt::format("{}={} is read by Intel's OpenMP only, which the LibTorch of "
                                      "this program does not use",
                                      name, *value),
                          "set OMP_PROC_BIND or GOMP_SPINCOUNT, if any", 0});
}

void add_masks(const Examination& e, Findings& findings) {
  for (const char* name : {"ATEN_CPU_CAPABILITY", "DNNL_MAX_CPU_ISA", "ONEDNN_MAX_CPU_ISA",
                           "MKL_ENABLE_INSTRUCTIONS", "MKL_CBWR", "OPENBLAS_CORETYPE"})
    if (const auto value = set_in(e.settings, name))
      findings.push_back({"masked",
                          fmt::format("{}={} limits the instructions of a library", name, *value),
                          fmt::format("unset {}", name), 0});
  const bool is_capped = set_in(e.settings, "ATEN_CPU_CAPABILITY").has_value();
  if (!is_capped && has_set(e.processor, "AVX-512") && e.settings.libtorch_capability == "AVX2")
    findings.push_back({"masked",
                        "LibTorch's own kernels run on AVX2, although the processor has AVX-512",
                        "take a LibTorch that was built with AVX-512 kernels", 0});
  std::vector<std::string> hidden;
  for (const std::string& name : instruction_sets_of_model(e.processor.model))
    if (!has_set(e.processor, name)) hidden.push_back(name);
  if (!hidden.empty())
    findings.push_back(
        {"masked",
         fmt::format(
             "every processor of this model (family {}, model {}) has {}, but this system does "
             "not show {}",
             e.processor.model.family, e.processor.model.model, fmt::join(hidden, " and "),
             hidden.size() == 1 ? "it" : "them"),
         e.processor.is_virtual
             ? "have the hypervisor pass the processor's features on (for QEMU and KVM: -cpu host)"
             : "look at the firmware's settings and at the kernel's command line (clearcpuid)",
         0});
  const bool has_amx = has_set(e.processor, "AMX_BF16") || has_set(e.processor, "AMX_INT8");
  if (has_amx && !e.settings.amx_is_granted)
    findings.push_back({"masked", "the processor has AMX, but the kernel does not grant its tiles",
                        "take Linux 5.16 or later, and a container that may call arch_prctl", 0});
}

void add_settings(const Examination& e, Findings& findings) {
  const MachineSettings& settings = e.settings;
  if (settings.fp32_matmul != "ieee" && !settings.fp32_matmul.empty())
    findings.push_back({"fp32",
                        fmt::format("LibTorch may compute fp32 matmuls in {} in this process: a "
                                    "program or library has set its fp32_precision",
                                    settings.fp32_matmul),
                        "set it to \"ieee\" before anything is compared with fp32", 0});
  for (const char* name : {"DNNL_DEFAULT_FPMATH_MODE", "ONEDNN_DEFAULT_FPMATH_MODE"})
    if (const auto value = set_in(settings, name); value && *value != "STRICT")
      findings.push_back(
          {"fp32", fmt::format("{}={} lets oneDNN compute fp32 in a coarser format", name, *value),
           fmt::format("unset {}", name), 0});
  if (const auto value = set_in(settings, "HALFTONE_REFERENCE_KERNELS"); value && !value->empty())
    findings.push_back(
        {"kernels",
         fmt::format("HALFTONE_REFERENCE_KERNELS={} replaces kernels by their slower "
                     "references",
                     *value),
         "unset it", 0});
  if (const auto value = set_in(settings, "HALFTONE_CPU_GEMM"); value && *value == "off")
    findings.push_back(
        {"kernels", "HALFTONE_CPU_GEMM=off leaves LibTorch's own layers without our 16-bit matmuls",
         "unset it", 0});
  if (!settings.governor.empty() && settings.governor != "performance" &&
      settings.governor != "schedutil")
    findings.push_back(
        {"governor",
         fmt::format("the frequency governor is '{}', which may be slow to raise the "
                     "clock",
                     settings.governor),
         "try 'performance' (cpupower frequency-set -g performance) and measure again", 0});
}

void add_pages(const Examination& e, Findings& findings) {
  const PageCosts& pages = e.pages;
  if (pages.fresh_s <= 0 || pages.again_s <= 0) return;
  const auto tunables = set_in(e.settings, "GLIBC_TUNABLES");
  const bool is_set_up = tunables && tunables->find("glibc.malloc.") != std::string::npos;
  if (const double gain = pages.fresh_s / pages.again_s; gain >= kWorthSaying)
    findings.push_back(
        {"allocator",
         fmt::format(
             "writing memory that the system has just given takes {:.2f} s a GiB, and {:.2f} s "
             "when the process had it before; glibc hands blocks above 32 MiB back at once",
             pages.fresh_s, pages.again_s),
         is_set_up ? "GLIBC_TUNABLES sets malloc's thresholds: unset it, or set them so that "
                     "memory is kept"
                   : "halftone keeps freed memory; a program of your own calls keep_freed_memory() "
                     "(halftone/system/memory.h) at its start",
         gain, !is_set_up});
  if (e.settings.large_pages == "never")
    findings.push_back({"pages",
                        "the system gives no large pages (transparent_hugepage is 'never')",
                        "allow them where a program asks: echo madvise > "
                        "/sys/kernel/mm/transparent_hugepage/enabled",
                        0});
}

/// What a program that does not link halftone would lose.
void add_native_matmuls(const Examination& e, Findings& findings) {
  const MatmulTiming* slowest = nullptr;
  for (const MatmulTiming& timing : e.matmuls)
    if (timing.upcast_ms > 0 && timing.native_ms > timing.upcast_ms &&
        (slowest == nullptr ||
         timing.native_ms / timing.upcast_ms > slowest->native_ms / slowest->upcast_ms))
      slowest = &timing;
  if (slowest == nullptr) return;
  const double gain = slowest->native_ms / slowest->upcast_ms;
  if (gain < 2) return;
  findings.push_back(
      {"16-bit matmuls",
       fmt::format("LibTorch's own {} takes {:.0f} times as long as upcasting to fp32 does",
                   slowest->product, gain),
       "halftone takes the faster way; another LibTorch program gets it with use_fast_cpu_gemms() "
       "or "
       "build/libhalftone_cpu_gemm.so",
       gain, true});
}

}  // namespace

std::vector<std::string> instruction_sets_of_model(const ProcessorModel& model) {
  const auto is_one_of = [&](std::initializer_list<int> models) {
    return std::find(models.begin(), models.end(), model.model) != models.end();
  };
  const std::vector<std::string> avx512 = {"AVX2", "FMA", "F16C", "AVX-512"};
  const auto with = [&](std::vector<std::string> more) {
    std::vector<std::string> all = avx512;
    all.insert(all.end(), more.begin(), more.end());
    return all;
  };
  if (model.vendor == "GenuineIntel" && model.family == 6) {
    // Sapphire Rapids, Emerald Rapids; Granite Rapids
    if (is_one_of({0x8F, 0xCF}))
      return with({"AVX512_VNNI", "AVX512_BF16", "AVX512_FP16", "AMX_BF16", "AMX_INT8"});
    if (is_one_of({0xAD, 0xAE}))
      return with(
          {"AVX512_VNNI", "AVX512_BF16", "AVX512_FP16", "AMX_BF16", "AMX_INT8", "AMX_FP16"});
    if (is_one_of({0x6A, 0x6C})) return with({"AVX512_VNNI"});  // Ice Lake
    if (is_one_of({0x55})) return avx512;                       // Skylake
  }
  if (model.vendor == "AuthenticAMD") {
    const bool is_zen4 = model.family == 0x19 && ((model.model >= 0x10 && model.model <= 0x1F) ||
                                                  (model.model >= 0x60 && model.model <= 0x7F) ||
                                                  (model.model >= 0xA0 && model.model <= 0xAF));
    if (is_zen4 || model.family == 0x1A) return with({"AVX512_VNNI", "AVX512_BF16"});
  }
  return {};
}

std::vector<Finding> find_costs(const Examination& examination) {
  Findings findings;
  add_precision(examination, findings);
  add_threads(examination, findings);
  add_limits(examination, findings);
  add_openmp(examination, findings);
  add_masks(examination, findings);
  add_settings(examination, findings);
  add_pages(examination, findings);
  add_native_matmuls(examination, findings);
  std::stable_sort(findings.begin(), findings.end(), [](const Finding& a, const Finding& b) {
    return a.is_avoided == b.is_avoided ? a.gain > b.gain : b.is_avoided;
  });
  return findings;
}

}  // namespace halftone
