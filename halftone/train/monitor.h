// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <optional>
#include <string>

#include "halftone/core/state_dict.h"

namespace halftone {

enum class MonitorMode { kMin, kMax };

/// The best that a logged value has been. Only a finite value can be the best.
class Monitor {
 public:
  /// `min_delta`: by how much a value must be better to count as better.
  Monitor(std::string name, MonitorMode mode, double min_delta = 0.0);

  /// The value of that name; nothing when `values` lacks it.
  std::optional<double> find(const std::map<std::string, double>& values);
  /// The same; throws UserError, which lists the names that there are, when `values` lacks it.
  double value_in(const std::map<std::string, double>& values);
  /// Whether `value` is better than all before by more than min_delta; remembers it then. A nan or
  /// an inf never is.
  bool improves(double value);
  const std::string& name() const { return name_; }
  const std::optional<double>& best() const { return best_; }
  /// Whether there was ever a validation to look at, also in an earlier part of a resumed run.
  bool has_looked() const { return has_looked_; }

  StateDict state_dict() const;
  void load_state_dict(const StateDict& state);

 private:
  std::string name_;
  MonitorMode mode_;
  double min_delta_;
  std::optional<double> best_;
  bool has_looked_ = false;
};

/// What a callback says of a monitored value that it will never see: fit() got no validation data.
std::string missing_validation(const std::string& callback, const std::string& monitor);
/// The same of a run that ended before its first validation.
std::string unused_monitor(const std::string& callback, const std::string& monitor);

}  // namespace halftone
