// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <exception>
#include <limits>
#include <optional>
#include <string>

#include "halftone/system/terminal.h"
#include "halftone/train/callback.h"

namespace halftone {

/// Shows the training on stderr: one line that redraws itself on a terminal, a plain line every
/// `log_every` steps otherwise. Skipped steps and validations get lines of their own.
class ProgressBar : public Callback {
 public:
  explicit ProgressBar(std::int64_t log_every = 10);

  void on_fit_start(Trainer& trainer) override;
  void on_step_end(Trainer& trainer, const StepMetrics& metrics) override;
  void on_validation_end(Trainer& trainer, const std::map<std::string, double>& values) override;
  void on_fit_end(Trainer& trainer) override;
  void on_exception(Trainer& trainer, const std::exception& error) override;

  /// Leaves the line that redraws itself as it is, if there is one.
  void finish() { line_.finish(); }

 protected:
  /// For one that has more to show.
  StatusLine& line() { return line_; }
  bool on_terminal() const { return terminal_; }
  /// `progress`: share of the run that is done, 0..1.
  void step(const StepMetrics& metrics, double progress);

 private:
  void note_loss(double loss);
  std::string status(const StepMetrics& metrics, double progress) const;

  std::int64_t log_every_;
  bool terminal_;
  bool shown_ = true;  // by one of several processes
  StatusLine line_;
  Pace pace_;
  std::optional<std::int64_t> total_steps_;
  std::int64_t steps_ = 0;      // of this process
  double first_progress_ = -1;  // where this process began, for the time that is left
  double seconds_ = 0;          // spent since then
  std::int64_t finite_losses_ = 0;
  double smoothed_loss_ = std::numeric_limits<double>::quiet_NaN();  // of the finite ones
  double tokens_per_s_ = 0;
  double steps_per_s_ = 0;
};

}  // namespace halftone
