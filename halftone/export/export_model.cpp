// SPDX-License-Identifier: Apache-2.0
#include "halftone/export/export_model.h"

#include <fmt/format.h>

#include <system_error>

#include "halftone/models/parameter_names.h"
#include "halftone/pretrain/config_schema.h"
#include "halftone/pretrain/run_weights.h"
#include "halftone/system/atomic_file.h"

namespace halftone {
namespace {

namespace fs = std::filesystem;

constexpr const char* kReportName = "export.json";

/// Nothing but an export is ever replaced.
void check_export_folder(const fs::path& folder, bool overwrite) {
  std::error_code error;
  if (!fs::exists(folder, error)) return;
  if (!fs::is_directory(folder, error))
    throw UserError(
        fmt::format("{}: expected a folder for the export, found a file; choose another "
                    "--out",
                    folder.string()));
  if (fs::is_empty(folder, error)) return;
  if (!fs::exists(folder / kReportName, error))
    throw UserError(
        fmt::format("{}: this folder holds something else than an export; choose another --out",
                    folder.string()));
  if (!overwrite)
    throw UserError(fmt::format(
        "{}: an export is there already; add --overwrite to replace it, or choose another --out",
        folder.string()));
}

void check_numbers(const StateDict& parameters, ExportDtype dtype) {
  for (const auto& [name, tensor] : parameters.tensors) {
    if (!tensor.isfinite().all().item<bool>())
      throw UserError(
          fmt::format("the weights of {} hold inf or nan; export a checkpoint from before", name));
    if (dtype == ExportDtype::kF16 && !tensor.to(torch::kHalf).isfinite().all().item<bool>())
      throw UserError(fmt::format(
          "the weights of {} are too large for f16 (up to {:.3g}); take --dtype bf16 or f32", name,
          tensor.abs().max().item<double>()));
  }
}

/// The configuration that names the training text, if the model comes from a run.
std::optional<TrainConfig> training_of(const fs::path& model) {
  const auto weights = find_run_weights(model);
  if (!weights || fs::exists(model / "config.json")) return std::nullopt;
  return resume_config(weights->run, {});
}

std::map<std::string, std::uint64_t> files_in(const fs::path& folder) {
  std::map<std::string, std::uint64_t> files;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder))
    files[entry.path().filename().string()] = entry.file_size();
  return files;
}

ExportSource source_of(const TrainedModel& trained) {
  ExportSource source{.model = trained.model->config(),
                      .parameters = parameters_of(trained.model),
                      .tokenizer = trained.tokenizer,
                      .lora = trained.model->lora()};
  if (source.lora.rank == 0) return source;
  source.unmerged = source.parameters;
  source.parameters = merged_parameters(source.unmerged, source.lora);
  return source;
}

void make_parent(const fs::path& folder) {
  std::error_code error;
  const fs::path parent = fs::absolute(folder).parent_path();
  fs::create_directories(parent, error);
  if (error)
    throw UserError(fmt::format("{}: cannot create this folder: {}; choose another --out",
                                parent.string(), error.message()));
}

}  // namespace

ExportRefused::ExportRefused(ExportReport the_report)
    : SystemError(fmt::format("the export as {} {} was removed: {}", the_report.format,
                              the_report.dtype, the_report.check.failure())),
      report(std::move(the_report)) {}

fs::path default_export_folder(const ExportRequest& request) {
  const auto weights = find_run_weights(request.model);
  return (weights ? weights->run : request.model) / "exports" /
         fmt::format("{}-{}", request.format->name(), name_of(request.dtype));
}

ExportReport export_model(const ExportRequest& request, const ExportProgress& progress) {
  const torch::NoGradGuard no_grad;
  const ExportFormat& format = *request.format;
  const auto show = [&](const char* stage) {
    if (progress) progress(stage, 0.0);
  };
  ExportReport report{
      .format = std::string(format.name()),
      .dtype = std::string(name_of(request.dtype)),
      .folder = request.folder.empty() ? default_export_folder(request) : request.folder};
  check_export_folder(report.folder, request.overwrite);
  show("loading");
  TrainedModel trained = load_trained_model(request.model);
  const ExportSource source = source_of(trained);
  report.parameters = parameter_count(source.model);
  format.check(source, request.dtype);
  check_numbers(source.parameters, request.dtype);
  make_parent(report.folder);
  AtomicFolder folder(report.folder);
  show("writing");
  format.write(source, request.dtype, folder.staging());
  show("reading back");
  TrainedModel exported = format.read_beside(source, folder.staging());
  report.files = files_in(folder.staging());
  report.check =
      verify_export(trained, exported, training_of(request.model), format, request.dtype, progress);
  if (!report.check.failure().empty()) throw ExportRefused(report);
  write_file_atomically(folder.staging() / kReportName, export_json(report));
  folder.commit();
  return report;
}

}  // namespace halftone
