// SPDX-License-Identifier: Apache-2.0
#include "halftone/diagnostics/profile/step_profile.h"

#include <torch/utils.h>

#include <algorithm>
#include <memory>
#include <numeric>
#include <set>
#include <utility>

#include "halftone/core/error.h"
#include "halftone/core/median.h"
#include "halftone/core/stopwatch.h"
#include "halftone/diagnostics/profile/fp32_tensors_impl.h"
#include "halftone/diagnostics/profile/profile_recorder_impl.h"

namespace halftone {
namespace {

double seconds(std::int64_t nanoseconds) { return 1e-9 * static_cast<double>(nanoseconds); }

double mean(const std::vector<double>& values) {
  return values.empty() ? 0.0
                        : std::accumulate(values.begin(), values.end(), 0.0) /
                              static_cast<double>(values.size());
}

/// Warms caches, allocators and the loss scale. Returns whether the last step was an update.
bool warm_up(RepeatedStep& step, std::int64_t steps) {
  constexpr std::int64_t kMost = 40;  // halvings of a loss scale
  bool stepped = false;
  for (std::int64_t i = 0; i < steps || (!stepped && i < kMost); ++i) stepped = step.take().stepped;
  return stepped;
}

class Profiler {
 public:
  Profiler(RepeatedStep& step, const ProfileOptions& options)
      : step_(step),
        options_(options),
        reasons_(step.network(), step.precision().policy(), step.precision().device().type()) {}

  StepProfile run() {
    const MixedPrecision& precision = step_.precision();
    StepProfile profile{.precision = precision.policy().name,
                        .memory = precision.memory().name,
                        .compute_dtype = precision.policy().compute_dtype(),
                        .device = precision.device(),
                        .threads = torch::get_num_threads(),
                        .micro_batches = step_.micro_batches()};
    profile.stepped = warm_up(step_, options_.warmup);
    for (std::int64_t i = 0; i < options_.steps; ++i) {
      profile.step_s.push_back(seconds_of_call([&] { profile.stepped = step_.take().stepped; }));
      observe(profile, i == 0);
      if (options_.progress)
        options_.progress(static_cast<double>(i + 1) / static_cast<double>(options_.steps));
    }
    fill(profile);
    return profile;
  }

 private:
  void observe(StepProfile& profile, bool looks_at_memory) {
    const torch::Device device = step_.precision().device();
    const auto recorder = std::make_shared<ProfileRecorder>(
        step_.network(), reasons_, record_,
        RecordingOptions{.keeps_calls = options_.keeps_calls, .looks_at_memory = looks_at_memory});
    const auto clocked = std::make_shared<ClockedRecorder>(recorder, device);
    const Observation observation(clocked);
    profile.observed_s.push_back(seconds_of_call([&] {
      step_.take([&](StepPhase phase) { clocked->begin_phase(phase); });
      clocked->end_step();
    }));
    profile.watching_s += seconds(clocked->watching_ns()) / static_cast<double>(options_.steps);
  }

  void fill(StepProfile& profile) {
    const double steps = static_cast<double>(options_.steps);
    for (const auto& [key, tally] : record_.operations)
      profile.operations.push_back({.operation = key.operation,
                                    .module = key.module,
                                    .phase = key.phase,
                                    .inputs = key.inputs,
                                    .outputs = key.outputs,
                                    .calls = static_cast<double>(tally.calls) / steps,
                                    .self_s = seconds(tally.self_ns) / steps,
                                    .total_s = seconds(tally.total_ns) / steps,
                                    .flops = tally.flops / steps,
                                    .bytes = tally.bytes / steps,
                                    .is_cast = tally.is_cast,
                                    .is_upcast = tally.is_upcast,
                                    .is_step_of_autograd = tally.is_step_of_autograd,
                                    .fp32_reason = tally.fp32_reason,
                                    .matmuls = tally.matmuls});
    std::stable_sort(
        profile.operations.begin(), profile.operations.end(),
        [](const OperationCost& a, const OperationCost& b) { return a.self_s > b.self_s; });
    for (const std::int64_t step_ns : record_.step_ns)
      profile.recorded_steps_s.push_back(seconds(step_ns));
    profile.recorded_s = mean(profile.recorded_steps_s);
    profile.outside_s = profile.recorded_s - seconds(record_.outermost_ns) / steps;
    fill_phases(profile, steps);
    fill_tensors(profile);
    if (options_.measures_peaks)
      profile.peaks = measure_peaks(multiplied_dtypes(profile), profile.device);
    profile.steps = std::move(record_.steps);
  }

  void fill_phases(StepProfile& profile, double steps) const {
    for (const ProfiledStep& step : record_.steps)
      for (const ProfiledPhase& phase : step.phases) {
        const double part = seconds(phase.end_ns - phase.begin_ns) / steps;
        if (phase.phase == StepPhase::kForward) profile.forward_s += part;
        if (phase.phase == StepPhase::kBackward) profile.backward_s += part;
        if (phase.phase == StepPhase::kUpdate) profile.update_s += part;
      }
    // What the backward pass does of the others' work, by its operations.
    for (const OperationCost& cost : profile.operations)
      if (cost.phase == StepPhase::kRecompute) profile.recompute_s += cost.self_s;
    profile.backward_s -= profile.recompute_s;
    if (!step_.precision().memory().release_gradients) return;
    double update = 0;
    for (const OperationCost& cost : profile.operations)
      if (cost.phase == StepPhase::kUpdate) update += cost.self_s;
    profile.backward_s -= std::max(0.0, update - profile.update_s);
    profile.update_s = std::max(profile.update_s, update);
  }

  void fill_tensors(StepProfile& profile) const {
    for (const LiveTensor& tensor : record_.live) {
      profile.activation_bytes += tensor.bytes;
      if (tensor.dtype == torch::kFloat) profile.fp32_activation_bytes += tensor.bytes;
    }
    profile.fp32_tensors =
        fp32_tensors(step_.network(), step_.optimizers(), step_.precision(), record_.live);
  }

  static std::set<torch::ScalarType> multiplied_dtypes(const StepProfile& profile) {
    std::set<torch::ScalarType> dtypes;
    for (const OperationCost& cost : profile.operations)
      for (const MatmulShape& shape : cost.matmuls) dtypes.insert(shape.dtype);
    return dtypes;
  }

  RepeatedStep& step_;
  const ProfileOptions& options_;
  Fp32Reasons reasons_;
  StepsRecord record_;
};

}  // namespace

StepProfile profile_step(RepeatedStep& step, const ProfileOptions& options) {
  HALFTONE_CHECK(options.steps >= 1, "[profile] expected 1 step or more, got ", options.steps);
  return Profiler(step, options).run();
}

double typical_step_s(const StepProfile& profile) { return median(profile.step_s); }

double observer_share(const StepProfile& profile) {
  const double unobserved = typical_step_s(profile);
  return unobserved > 0 ? median(profile.recorded_steps_s) / unobserved - 1 : 0;
}

}  // namespace halftone
