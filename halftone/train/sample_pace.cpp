// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <bit>
#include <cmath>
#include <utility>

#include "halftone/train/sample_pace_impl.h"

namespace halftone {
namespace {

constexpr std::int64_t kFirstInterval = 4;
constexpr double kLongestInterval = 1 << 20;
constexpr double kMemory = 0.75;  // of a mean, at each new value

void note(double& mean, double value) {
  mean = mean == 0.0 ? value : kMemory * mean + (1.0 - kMemory) * value;
}

}  // namespace

SamplePace::SamplePace(std::int64_t every_n_steps)
    : is_chosen_(every_n_steps == 0), every_(is_chosen_ ? kFirstInterval : every_n_steps) {}

bool SamplePace::is_due(std::int64_t step) const {
  return step % every_ == 0 || (is_chosen_ && step == 1);
}

void SamplePace::note_step(double seconds) { note(step_s_, seconds); }

void SamplePace::note_sample(double seconds) {
  if (!std::exchange(is_warm_, true)) return;
  note(sample_s_, seconds);
  choose();
}

void SamplePace::choose() {
  if (!is_chosen_ || step_s_ <= 0.0) return;
  const double least = std::clamp(std::ceil(sample_s_ / (kShare * step_s_)), 1.0, kLongestInterval);
  every_ = static_cast<std::int64_t>(std::bit_ceil(static_cast<std::uint64_t>(least)));
}

StateDict SamplePace::state_dict() const {
  StateDict state;
  if (is_chosen_) state.values = {{"every", every_}, {"sample_s", sample_s_}, {"step_s", step_s_}};
  return state;
}

void SamplePace::load_state_dict(const StateDict& state) {
  if (!is_chosen_ || !state.values.contains("every")) return;
  every_ = std::max<std::int64_t>(1, state.get<std::int64_t>("every"));
  sample_s_ = state.get<double>("sample_s");
  step_s_ = state.get<double>("step_s");
}

}  // namespace halftone
