// SPDX-License-Identifier: Apache-2.0
#include "halftone/train/csv_logger.h"

#include "halftone/core/error.h"

namespace halftone {

void CsvLogger::open(const std::filesystem::path& folder, std::int64_t last_step) {
  log_.emplace(folder / "metrics.csv", last_step);
}

void CsvLogger::log_metrics(std::int64_t step, const std::map<std::string, double>& values) {
  HALFTONE_CHECK(log_, "[csv_logger] expected open() before log_metrics()");
  log_->append(step, values);
}

void CsvLogger::sync() {
  if (log_) log_->sync();
}

}  // namespace halftone
