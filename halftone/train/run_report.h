// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <exception>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "halftone/report/report.h"
#include "halftone/train/callback.h"

namespace halftone {

/// Writes RUN/report.html: at each checkpoint, and when the run ends, however it ends. A report
/// that can't be written is a warning, never the end of the run. A Trainer with a default_root_dir
/// has one anyway.
class RunReport : public Callback {
 public:
  /// `facts` stand in the page's head, before what every run can tell of itself. None: the number
  /// of parameters.
  explicit RunReport(std::vector<RunDescription::Fact> facts = {}) : facts_(std::move(facts)) {}

  void on_fit_start(Trainer& trainer) override;
  void on_checkpoint_saved(Trainer& trainer, const std::filesystem::path& folder) override;
  void on_fit_end(Trainer& trainer) override;
  void on_exception(Trainer& trainer, const std::exception& error) override;

 private:
  void write(const Trainer& trainer, const std::string& state);

  std::vector<RunDescription::Fact> facts_;
  std::optional<MetricsReader> reader_;  // keeps what it read of a long run
};

}  // namespace halftone
