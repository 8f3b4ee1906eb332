// SPDX-License-Identifier: Apache-2.0
#include "cli/export_command.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "cli/program.h"
#include "cli/progress.h"
#include "halftone/core/error.h"
#include "halftone/export/export_model.h"

namespace halftone::cli {
namespace {

struct ExportArguments {
  std::string model;
  std::string format;
  std::string dtype;
  std::string out;
  bool overwrite = false;
  bool json = false;
};

ExportRequest request_of(const ExportArguments& arguments) {
  const ExportFormat& format = export_format(arguments.format);
  const std::vector<ExportDtype> dtypes = format.dtypes();
  const ExportDtype dtype =
      arguments.dtype.empty() ? dtypes.front() : parse_export_dtype(arguments.dtype);
  if (std::find(dtypes.begin(), dtypes.end(), dtype) == dtypes.end()) {
    std::vector<std::string_view> names;
    for (const ExportDtype one : dtypes) names.push_back(name_of(one));
    throw UserError(fmt::format("--dtype: --format {} expects {}, got {}", format.name(),
                                fmt::join(names, ", "), name_of(dtype)));
  }
  return {.model = arguments.model,
          .format = &format,
          .dtype = dtype,
          .folder = arguments.out,
          .overwrite = arguments.overwrite};
}

void print_report(const ExportReport& report, bool json) {
  print(json ? export_json(report) : export_text(report));
}

void run_export(const ExportArguments& arguments) {
  const ExportRequest request = request_of(arguments);
  StageProgress progress;
  try {
    const ExportReport report = export_model(
        request, [&](const std::string& stage, double share) { progress.show(stage, share); });
    progress.clear();
    print_report(report, arguments.json);
  } catch (const ExportRefused& refused) {
    progress.clear();
    print_report(refused.report, arguments.json);
    throw;
  }
}

}  // namespace

void add_export_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand(
      "export", "Write a trained model for other programs, verified before it bears its name");
  auto arguments = std::make_shared<ExportArguments>();
  command->add_option("RUN", arguments->model, "Run directory, or Hugging Face folder of a model")
      ->required()
      ->type_name("");
  command
      ->add_option("--format", arguments->format,
                   "safetensors (this library's names), hf (transformers), gguf (llama.cpp), w8a8 "
                   "(compressed-tensors), peft (the adapters of a LoRA run alone)")
      ->required()
      ->type_name("FORMAT");
  command
      ->add_option("--dtype", arguments->dtype,
                   "How matrices are stored: f32, f16, bf16 or int8 (default: f32; w8a8: int8)")
      ->type_name("DTYPE");
  command->add_option("--out", arguments->out, "Folder for the files [RUN/exports/FORMAT-DTYPE]")
      ->type_name("DIR");
  command->add_flag("--overwrite", arguments->overwrite, "Replace an export that is there");
  command->add_flag("--json", arguments->json, "Print the report as one JSON document");
  command->footer(
      "Examples:\n"
      "  halftone export runs/quickstart --format gguf --dtype int8\n"
      "  halftone export runs/quickstart --format hf --dtype bf16 --out poems-hf\n"
      "  halftone export runs/quickstart --format w8a8 --json\n"
      "  halftone export runs/adapted --format peft\n"
      "\n"
      "The files are read back first: token ids on the training text, logits and perplexity are\n"
      "compared with the run's. Above the bound nothing is left and the exit code is 1.");
  command->callback([arguments] { run_export(*arguments); });
}

}  // namespace halftone::cli
