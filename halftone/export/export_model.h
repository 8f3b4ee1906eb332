// SPDX-License-Identifier: Apache-2.0
// A trained model leaves: written under a temporary name, read back, compared, and only then given
// its name.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>

#include "halftone/core/error.h"
#include "halftone/export/export_format.h"
#include "halftone/export/verification.h"

namespace halftone {

struct ExportRequest {
  std::filesystem::path model;  // what load_trained_model() takes
  const ExportFormat* format = nullptr;
  ExportDtype dtype = ExportDtype::kF32;
  std::filesystem::path folder;  // empty: default_export_folder()
  bool overwrite = false;        // an export that is there
};

struct ExportReport {
  std::string format;
  std::string dtype;
  std::filesystem::path folder;
  std::int64_t parameters = 0;
  std::map<std::string, std::uint64_t> files;  // bytes by name
  ExportCheck check;
};

/// The export was not what was trained; nothing is left of it.
class ExportRefused : public SystemError {
 public:
  explicit ExportRefused(ExportReport the_report);

  ExportReport report;
};

/// RUN/exports/FORMAT-DTYPE; of a Hugging Face folder, in that folder.
std::filesystem::path default_export_folder(const ExportRequest& request);

/// Exports, and leaves export.json, the report, beside the files. Throws UserError for a model that
/// the format can't hold, numbers that are not finite or overflow the dtype, and a folder that is
/// there and no export to be overwritten; ExportRefused above a bound.
ExportReport export_model(const ExportRequest& request, const ExportProgress& progress = {});

/// The report for people, several lines; and as JSON (docs/formats.md).
std::string export_text(const ExportReport& report);
std::string export_json(const ExportReport& report);

}  // namespace halftone
