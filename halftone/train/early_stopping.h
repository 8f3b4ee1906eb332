// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "halftone/train/callback.h"
#include "halftone/train/monitor.h"

namespace halftone {

struct EarlyStoppingOptions {
  std::string monitor = "val_loss";  // a value that validation logs
  MonitorMode mode = MonitorMode::kMin;
  double min_delta = 0.0;
  std::int64_t patience = 3;  // validations without a better value after which the run ends; 0 is 1
  bool check_finite = true;   // a nan or an inf ends the run at once
  std::optional<double> stopping_threshold;    // a value better than that ends the run: it is done
  std::optional<double> divergence_threshold;  // one worse than that does, too: it is lost
  /// What messages call `patience`: in a program whose users know it under another name.
  std::string patience_name = "patience";
  /// Without validation data, and where validation does not log the value: a UserError. If false, a
  /// warning; the run then goes on to its other limits.
  bool strict = true;
};

/// Stops a run that no longer gets better, with a note that says why. A run that it ended stays
/// ended when it is resumed, until the options no longer end it (a larger patience, say).
class EarlyStopping : public Callback {
 public:
  explicit EarlyStopping(EarlyStoppingOptions options = {});

  void setup(const Trainer& trainer) override;
  void on_fit_start(Trainer& trainer) override;
  void on_validation_end(Trainer& trainer, const std::map<std::string, double>& values) override;
  void on_fit_end(Trainer& trainer) override;

  /// Whether what validations have logged so far ends the run.
  bool ends_run() const { return !reason_to_stop().why.empty(); }

  std::string state_key() const override { return "early_stopping"; }
  StateDict state_dict() const override;
  void load_state_dict(const StateDict& state) override;

 private:
  struct Reason {
    std::string why;  // empty: the run goes on
    std::string remedy;
  };
  Reason reason_to_stop() const;
  bool is_better(double value, double other) const;

  EarlyStoppingOptions options_;
  Monitor best_;
  std::int64_t waited_ = 0;  // validations without a better value
  double last_ = 0.0;        // value of the last validation, if there was one
  bool has_last_ = false;
};

}  // namespace halftone
