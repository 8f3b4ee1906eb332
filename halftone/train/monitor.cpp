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

std::optional<double> Monitor::find(const std::map<std::string, double>& values) {
  has_looked_ = true;
  const auto found = values.find(name_);
  if (found == values.end()) return std::nullopt;
  if (std::isnan(found->second)) return NAN;  // whose sign is of no meaning
  return found->second;
}

double Monitor::value_in(const std::map<std::string, double>& values) {
  if (const std::optional<double> value = find(values)) return *value;
  std::vector<std::string> names;
  for (const auto& [name, value] : values) names.push_back(name);
  throw UserError(
      fmt::format("nothing called '{}' was logged in validation, there is {}; log it "
                  "in validation_step, or monitor another value",
                  name_, names.empty() ? "nothing" : fmt::format("{}", fmt::join(names, ", "))));
}

bool Monitor::improves(double value) {
  if (!std::isfinite(value)) return false;
  const double gain =
      mode_ == MonitorMode::kMin ? best_.value_or(0) - value : value - best_.value_or(0);
  if (best_ && gain <= min_delta_) return false;
  best_ = value;
  return true;
}

StateDict Monitor::state_dict() const {
  StateDict state;
  state.values["has_looked"] = has_looked_;
  if (best_) state.values["best"] = *best_;
  return state;
}

void Monitor::load_state_dict(const StateDict& state) {
  best_.reset();
  if (state.values.contains("best")) best_ = state.get<double>("best");
  if (best_ && !std::isfinite(*best_)) best_.reset();  // an older checkpoint may hold one
  has_looked_ = best_ || (state.values.contains("has_looked") && state.get<bool>("has_looked"));
}

std::string missing_validation(const std::string& callback, const std::string& monitor) {
  return fmt::format(
      "{}: expected validation data, which '{}' is measured on, got none; give fit() a validation "
      "loader, or leave the monitor out",
      callback, monitor);
}

std::string unused_monitor(const std::string& callback, const std::string& monitor) {
  return fmt::format(
      "{}: the run ended before its first validation, so '{}' was never looked at; set "
      "val_check_interval to fewer steps than the run has",
      callback, monitor);
}

}  // namespace halftone
