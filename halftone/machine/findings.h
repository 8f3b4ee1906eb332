// SPDX-License-Identifier: Apache-2.0
// What costs most on this machine, and what helps: from measurements and settings to sentences.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "halftone/kernels/gemm/cpu_gemm_probe.h"
#include "halftone/machine/machine_costs.h"
#include "halftone/machine/machine_settings.h"
#include "halftone/machine/speed.h"
#include "halftone/system/processor.h"

namespace halftone {

struct Finding {
  std::string what;       ///< a word: "threads", "precision", "pages", ...
  std::string statement;  ///< one sentence, with what was measured or read here
  std::string remedy;     ///< one sentence
  /// How many times as fast the remedy should make what it touches, as measured here; 0: it was not
  /// measured.
  double gain = 0;
  /// The program `halftone` avoids it by itself: it concerns other programs on LibTorch.
  bool is_avoided = false;
};

/// What is judged.
struct Examination {
  Processor processor;
  MachineSettings settings;
  std::int64_t threads = 0;  ///< that LibTorch has now
  std::vector<ThreadSpeed> thread_speeds;
  double parallel_loop_s = 0;
  PageCosts pages;
  std::string recommended;            ///< a precision (recommend_precision()); empty: none
  std::vector<LayerSpeed> layers;     ///< fp32 first
  std::vector<MatmulTiming> matmuls;  ///< native and upcast
};

/// None of what is as it should be. First what concerns this program, the largest measured gain at
/// the front, what was not measured behind; then likewise what it avoids.
std::vector<Finding> find_costs(const Examination& examination);

/// The instruction sets, in Linux's words of Processor::instruction_sets, that every processor of
/// this model has and a hypervisor may hide; empty for models that this does not know.
std::vector<std::string> instruction_sets_of_model(const ProcessorModel& model);

}  // namespace halftone
