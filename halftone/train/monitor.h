// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <optional>
#include <string>

#include "halftone/core/state_dict.h"

namespace halftone {

enum class MonitorMode { kMin, kMax };

/// The best that a logged value has been.
class Monitor {
 public:
  /// `min_delta`: by how much a value must be better to count as better.
  Monitor(std::string name, MonitorMode mode, double min_delta = 0.0);

  /// Whether the value is better than all before; remembers it then. A nan never is. Throws
  /// UserError, which lists what there is, when `values` lacks the name.
  bool improves(const std::map<std::string, double>& values);
  const std::optional<double>& best() const { return best_; }

  StateDict state_dict() const;
  void load_state_dict(const StateDict& state);

 private:
  std::string name_;
  MonitorMode mode_;
  double min_delta_;
  std::optional<double> best_;
};

}  // namespace halftone
