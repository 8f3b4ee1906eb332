// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <set>
#include <string>

#include "halftone/run/event_file.h"
#include "halftone/train/logger.h"

namespace halftone {

/// Writes what `tensorboard --logdir RUN` shows: an event file in RUN/tensorboard for each open()
/// (docs/formats.md). Of a resumed run TensorBoard forgets the steps after the checkpoint that were
/// there before.
class TensorBoardLogger : public Logger {
 public:
  void open(const std::filesystem::path& folder, std::int64_t last_step) override;
  void log_metrics(std::int64_t step, const std::map<std::string, double>& values) override;
  /// A table among the texts, called hyper_parameters, at the step that the run begins from.
  void log_hyper_parameters(const StateDict& values) override;
  /// `text` is shown as Markdown.
  void log_text(std::int64_t step, const std::string& name, const std::string& text) override;
  /// See distribution_of(). Warns once of a name with values that are not finite; without one that
  /// is, nothing is written.
  void log_histogram(std::int64_t step, const std::string& name,
                     const torch::Tensor& values) override;
  void sync() override;
  void close() override { events_.reset(); }

 private:
  EventFile& events();

  std::optional<EventFile> events_;  // while it is open
  std::int64_t first_step_ = 0;
  std::set<std::string> warned_of_;  // histograms with values that were not finite
};

/// How the finite elements of `values` are distributed, in 64 buckets of one width from the least
/// to the largest, or in one bucket where all are equal; no bucket where there is none. Computed in
/// fp64 on the tensor's device, with a copy of at most 4 Mi elements at a time. REQUIRES real or
/// integer elements, any shape.
Distribution distribution_of(const torch::Tensor& values);

}  // namespace halftone
