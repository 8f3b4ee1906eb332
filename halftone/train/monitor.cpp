// SPDX-License-Identifier: Apache-2.0
#include "halftone/train/monitor.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cmath>
#include <utility>
#include <vector>

#include "halftone/core/error.h"

namespace halftone {

Monitor::Monitor(std::string name, MonitorMode mode, double min_delta)
    : name_(std::move(name)), mode_(mode), min_delta_(min_delta) {}

bool Monitor::improves(const std::map<std::string, double>& values) {
  const auto found = values.find(name_);
  if (found == values.end()) {
    std::vector<std::string> names;
    for (const auto& [name, value] : values) names.push_back(name);
    throw UserError(
        fmt::format("nothing called '{}' was logged in validation, there is {}; log it "
                    "in validation_step, or monitor another value",
                    name_, names.empty() ? "nothing" : fmt::format("{}", fmt::join(names, ", "))));
  }
  const double value = found->second;
  const double gain =
      mode_ == MonitorMode::kMin ? best_.value_or(0) - value : value - best_.value_or(0);
  if (std::isnan(value) || (best_ && gain <= min_delta_)) return false;
  best_ = value;
  return true;
}

StateDict Monitor::state_dict() const {
  StateDict state;
  if (best_) state.values["best"] = *best_;
  return state;
}

void Monitor::load_state_dict(const StateDict& state) {
  best_.reset();
  if (state.values.contains("best")) best_ = state.get<double>("best");
}

}  // namespace halftone
