// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "halftone/train/callback.h"
#include "halftone/train/monitor.h"

namespace halftone {

struct EarlyStoppingOptions {
  std::string monitor = "val_loss";
  MonitorMode mode = MonitorMode::kMin;
  double min_delta = 0.0;
  std::int64_t patience = 3;  // validations without a better value after which the run ends
};

/// Stops a run that no longer gets better, with a note that says so.
class EarlyStopping : public Callback {
 public:
  explicit EarlyStopping(EarlyStoppingOptions options = {});

  void on_validation_end(Trainer& trainer, const std::map<std::string, double>& values) override;

  std::string state_key() const override { return "early_stopping"; }
  StateDict state_dict() const override;
  void load_state_dict(const StateDict& state) override;

 private:
  EarlyStoppingOptions options_;
  Monitor best_;
  std::int64_t waited_ = 0;
};

}  // namespace halftone
