// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>

#include "halftone/run/csv_log.h"
#include "halftone/train/logger.h"

namespace halftone {

/// Writes RUN/metrics.csv: a line for each call of log_metrics(), a column for each name
/// (docs/formats.md). Only numbers stand in it: texts, histograms and hyper-parameters do not.
class CsvLogger : public Logger {
 public:
  void open(const std::filesystem::path& folder, std::int64_t last_step) override;
  void log_metrics(std::int64_t step, const std::map<std::string, double>& values) override;
  void sync() override;
  void close() override { log_.reset(); }

 private:
  std::optional<CsvLog> log_;  // while it is open
};

}  // namespace halftone
