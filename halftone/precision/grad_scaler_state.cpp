// SPDX-License-Identifier: Apache-2.0
// What a GradScaler saves, and what it takes from its own or torch's saved state.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <limits>
#include <utility>

#include "halftone/core/error.h"
#include "halftone/core/log.h"
#include "halftone/precision/grad_scaler.h"

namespace halftone {
namespace {

// Refuses what no scaler saves, such as a scale that torch let shrink to 0, or a number beyond the
// 32 bits that it counts in. A scale beyond the limits is what torch's may well be.
void check_saved(const GradScalerOptions& saved, std::initializer_list<std::int64_t> counters) {
  constexpr std::int64_t kMost = std::numeric_limits<std::int32_t>::max();
  const auto is_count = [](std::int64_t n, std::int64_t least) { return n >= least && n <= kMost; };
  const bool sensible =
      std::isfinite(saved.init_scale) && saved.init_scale > 0 && saved.growth_factor > 1 &&
      saved.backoff_factor > 0 && saved.backoff_factor < 1 && is_count(saved.growth_interval, 1) &&
      is_count(saved.hysteresis, 1) && saved.min_scale > 0 && saved.min_scale <= saved.max_scale &&
      std::all_of(counters.begin(), counters.end(), [&](std::int64_t n) { return is_count(n, 0); });
  if (!sensible)
    throw UserError(fmt::format(
        "cannot go on with the saved scaler: scale {}, growth_factor {}, backoff_factor {}, "
        "growth_interval {}, hysteresis {}, min_scale {}, max_scale {}, counters {}; start with a "
        "new scaler",
        saved.init_scale, saved.growth_factor, saved.backoff_factor, saved.growth_interval,
        saved.hysteresis, saved.min_scale, saved.max_scale, fmt::join(counters, ", ")));
  if (saved.init_scale < saved.min_scale || saved.init_scale > saved.max_scale)
    log_warning(fmt::format(
        "the saved loss scale {} lies outside min_scale..max_scale ({}..{}); it is kept, and moves "
        "towards them only",
        saved.init_scale, saved.min_scale, saved.max_scale));
}

}  // namespace

void GradScaler::check_between_iterations(const char* caller) const {
  const bool between = std::all_of(states_.begin(), states_.end(), [](const auto& entry) {
    return entry.second.stage == Stage::kReady;
  });
  HALFTONE_CHECK(between, "[grad_scaler] ", caller,
                 " was called in the middle of an iteration: call it before unscale_() and step(), "
                 "or after update()");
}

StateDict GradScaler::state_dict() const {
  StateDict state;
  if (!options_.enabled) return state;
  check_between_iterations("state_dict()");
  const auto now = [&](const torch::Tensor& counter, std::int64_t before) {
    return scale_.defined() ? counter.item<std::int64_t>() : before;
  };
  if (adaptive_) state = adaptive_->state_dict();
  state.values.insert(
      {{"scale", get_scale()},
       {"growth_factor", options_.growth_factor},
       {"backoff_factor", options_.backoff_factor},
       {"growth_interval", options_.growth_interval},
       {"_growth_tracker", growth_tracker()},
       {"hysteresis", options_.hysteresis},
       {"_hysteresis_tracker", now(hysteresis_tracker_, initial_hysteresis_tracker_)},
       {"min_scale", options_.min_scale},
       {"max_scale", options_.max_scale},
       {"_skips_at_floor", now(skips_at_floor_, initial_skips_at_floor_)}});
  return state;
}

void GradScaler::load_state_dict(const StateDict& state) {
  if (!options_.enabled) return;
  check_between_iterations("load_state_dict()");
  if (state.values.empty())
    throw UserError(
        "The source state dict is empty, possibly because it was saved from a disabled instance of "
        "GradScaler. Load a state that was saved while loss scaling was on, or start anew");
  const auto optional = [&]<class T>(const char* name, T otherwise) {
    return state.values.count(name) != 0 ? state.get<T>(name) : otherwise;
  };
  GradScalerOptions loaded = options_;
  loaded.growth_factor = state.get<double>("growth_factor");
  loaded.backoff_factor = state.get<double>("backoff_factor");
  loaded.growth_interval = state.get<std::int64_t>("growth_interval");
  loaded.hysteresis = optional("hysteresis", options_.hysteresis);
  loaded.min_scale = optional("min_scale", options_.min_scale);
  loaded.max_scale = optional("max_scale", options_.max_scale);
  loaded.init_scale = state.get<double>("scale");
  const auto tracker = state.get<std::int64_t>("_growth_tracker");
  const std::int64_t left = optional("_hysteresis_tracker", loaded.hysteresis);
  const std::int64_t skips = optional("_skips_at_floor", std::int64_t{0});
  check_saved(loaded, {tracker, left, skips});
  std::optional<AdaptiveScale> adaptive = adaptive_;
  if (adaptive) adaptive->load_state_dict(state);

  initial_scale_ = std::exchange(loaded.init_scale, options_.init_scale);
  options_ = loaded;
  if (adaptive) {
    adaptive->set_limits(loaded.min_scale, loaded.max_scale);
    adaptive_ = std::move(adaptive);
  }
  initial_growth_tracker_ = tracker;
  initial_hysteresis_tracker_ = left;
  initial_skips_at_floor_ = skips;
  worst_ = {};
  if (scale_.defined()) initialize(scale_.device());
}

}  // namespace halftone
