// SPDX-License-Identifier: Apache-2.0
// The machine's abilities for training: facts, measurements and a recommendation.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "halftone/kernels/gemm/cpu_gemm_probe.h"
#include "halftone/machine/crossings.h"
#include "halftone/machine/findings.h"
#include "halftone/machine/machine.h"
#include "halftone/machine/machine_costs.h"
#include "halftone/machine/machine_settings.h"
#include "halftone/machine/speed.h"
#include "halftone/system/processor.h"

namespace halftone {

struct Recommendation {
  std::string precision;
  std::string reason;  ///< one sentence
};

/// The precision whose training step should take the least time, reckoned from its layer's: three
/// quarters of an fp32 step are matmuls (minimind-26m, measured), and the rest stays as it is. A
/// later entry of `layers` (put the finer precision first) must make the step a tenth faster than
/// the best before it, or its coarser numbers buy nothing. REQUIRES a first entry, 32-true, which
/// the others are compared with.
Recommendation recommend_precision(const std::vector<LayerSpeed>& layers);

enum class MatmulSource { kEnvironment, kRecord, kMeasuredNow };

struct DoctorReport {
  Processor processor;
  SystemMemory memory;
  std::filesystem::path cache;
  std::uint64_t cache_free_bytes = 0;
  std::vector<int> cuda_capabilities;  ///< 86 for 8.6, by device

  std::string libtorch_version;
  std::string libtorch_capability;  ///< what LibTorch's own kernels are dispatched to
  std::string kernel_target;        ///< what ours are, in Highway's names
  std::int64_t threads = 0;         ///< of LibTorch's pool, which all of it was measured with

  double peak_fp32_gflops = 0;
  double triad_bytes_per_s = 0;
  std::vector<LayerSpeed> layers;

  CpuGemmConfig matmuls;  ///< in force
  MatmulSource matmul_source = MatmulSource::kRecord;
  std::vector<MatmulTiming> matmul_timings;
  LibraryTiming fp32_timing;

  Recommendation recommendation;  ///< for the CPU

  std::vector<ThreadSpeed> thread_speeds;
  double parallel_loop_s = 0;
  PageCosts pages;
  std::optional<Crossings> crossings;  ///< nothing without DoctorOptions::crossings
  std::vector<Finding> findings;       ///< what costs most first
};

struct DoctorOptions {
  /// Whether the ways of 16-bit matmuls are measured anew as well.
  MatmulRecord record = MatmulRecord::kUse;
  /// From which width and how many rows a coarser format pays: some four seconds more.
  bool crossings = true;
  /// What is measured now, and how far all of it has come; may be empty.
  std::function<void(const std::string& stage, double share)> progress;
};

/// Measures for about two seconds, and with crossings for about six, with at::get_num_threads()
/// threads (two cores of an EPYC; longer where the ways of 16-bit matmuls are not known yet).
/// Throws UserError when HALFTONE_MATMUL names none.
DoctorReport examine_machine(const DoctorOptions& options = {});

}  // namespace halftone
