// SPDX-License-Identifier: Apache-2.0
#include "halftone/machine/doctor.h"

#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <fmt/format.h>
#include <torch/version.h>

#include <algorithm>
#include <utility>

#include "halftone/core/device.h"
#include "halftone/core/error.h"
#include "halftone/kernels/gemm/matmul_environment.h"
#include "halftone/machine/speed_impl.h"
#include "halftone/system/paths.h"

namespace halftone {
namespace {

/// What a coarser precision must gain to be worth it.
constexpr double kGain = 1.1;
constexpr double kProductsOfStep = 0.75;

MatmulSource source_of(const MatmulMeasurement& measurement) {
  if (!matmul_environment().empty()) return MatmulSource::kEnvironment;
  return measurement.recorded ? MatmulSource::kRecord : MatmulSource::kMeasuredNow;
}

std::vector<int> cuda_capabilities() {
  std::vector<int> capabilities;
  for (int i = 0; i < cuda_device_count(); ++i)
    capabilities.push_back(
        cuda_compute_capability({torch::kCUDA, static_cast<c10::DeviceIndex>(i)}));
  return capabilities;
}

}  // namespace

Recommendation recommend_precision(const std::vector<LayerSpeed>& layers) {
  HALFTONE_CHECK(!layers.empty(), "[doctor] expected the speed of at least one precision");
  const LayerSpeed& reference = layers.front();
  const auto precision = [](const LayerSpeed& layer) {
    return fp32_weights_precision(layer.compute);
  };
  const auto products = [&](const LayerSpeed& layer) { return layer.seconds / reference.seconds; };
  const auto step = [&](const LayerSpeed& layer) {
    return 1 - kProductsOfStep + kProductsOfStep * products(layer);
  };
  const LayerSpeed* best = &reference;
  const LayerSpeed* passed_over = nullptr;  // faster, by too little
  for (const LayerSpeed& layer : layers) {
    if (step(layer) * kGain < step(*best)) {
      best = &layer;
      passed_over = nullptr;
    } else if (layer.seconds < (passed_over == nullptr ? best : passed_over)->seconds) {
      passed_over = &layer;
    }
  }
  std::string reason =
      best == &reference
          ? fmt::format("no other precision makes a step a tenth faster than {}",
                        precision(reference))
          : fmt::format(
                "a layer's matmuls take {:.2f} of their time in {}, so a step should take "
                "about {:.2f}",
                products(*best), precision(reference), step(*best));
  if (passed_over != nullptr)
    reason += fmt::format("; {} (matmuls {:.2f}, step {:.2f}) gains too little over that",
                          precision(*passed_over), products(*passed_over), step(*passed_over));
  return {.precision = precision(*best), .reason = std::move(reason)};
}

DoctorReport examine_machine(const DoctorOptions& options) {
  const double costly = options.crossings ? 0.4 : 1.0;  // the share of what is always measured
  const auto tell = [&](const char* stage, double share) {
    if (options.progress) options.progress(stage, share);
  };
  tell("matmuls", 0.0);
  const MatmulMeasurement measurement = measured_cpu_gemm_config(options.record);
  DoctorReport report{.processor = this_processor(),
                      .memory = system_memory(),
                      .cache = cache_folder(),
                      .cache_free_bytes = free_disk_bytes(cache_folder()),
                      .cuda_capabilities = cuda_capabilities(),
                      .libtorch_version = TORCH_VERSION,
                      .libtorch_capability = at::get_cpu_capability(),
                      .kernel_target = dispatched_target(),
                      .threads = at::get_num_threads(),
                      .matmuls = cpu_gemm_config(),
                      .matmul_source = source_of(measurement),
                      .matmul_timings = measurement.timings,
                      .fp32_timing = measurement.fp32};
  tell("speed", 0.2 * costly);
  report.peak_fp32_gflops = peak_fp32_gflops();
  report.triad_bytes_per_s = triad_bytes_per_s();
  report.layers = layer_speeds();
  // Once more: a peak that is disturbed would flatter everything that is measured against it.
  report.peak_fp32_gflops = std::max(report.peak_fp32_gflops, peak_fp32_gflops());
  report.recommendation = recommend_precision(report.layers);
  tell("threads and memory", 0.7 * costly);
  const MachineSettings settings = machine_settings();
  report.thread_speeds = thread_speeds(
      std::max<std::int64_t>({report.threads, report.processor.cores, settings.allowed_cpus}),
      {report.threads, report.processor.cores});
  report.parallel_loop_s = parallel_loop_seconds();
  report.pages = page_costs();
  if (options.crossings)
    report.crossings = measure_crossings(
        {.progress = [&](double share) { tell("layers", costly + (1 - costly) * share); }});
  report.findings = find_costs({.processor = report.processor,
                                .settings = settings,
                                .threads = report.threads,
                                .thread_speeds = report.thread_speeds,
                                .parallel_loop_s = report.parallel_loop_s,
                                .pages = report.pages,
                                .recommended = report.recommendation.precision,
                                .layers = report.layers,
                                .matmuls = report.matmul_timings});
  return report;
}

}  // namespace halftone
