// SPDX-License-Identifier: Apache-2.0
#include "cli/compare_command.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "cli/program.h"
#include "cli/progress.h"
#include "cli/step_arguments.h"
#include "halftone/core/error.h"
#include "halftone/core/text.h"
#include "halftone/diagnostics/compare/compare.h"
#include "halftone/diagnostics/compare/compare_json.h"
#include "halftone/diagnostics/compare/compare_page.h"
#include "halftone/diagnostics/compare/comparison_text.h"
#include "halftone/precision/policy.h"
#include "halftone/pretrain/config_precision.h"
#include "halftone/run/checkpoint.h"
#include "halftone/system/atomic_file.h"

namespace halftone::cli {
namespace {

constexpr std::size_t kShownTensors = 12;
constexpr const char* kNone = "none";

struct CompareArguments {
  std::string against = "32-true";
  std::vector<std::string> what_if = CompareOptions{}.what_if;
  std::string page;  // file; empty: none
  bool json = false;
  bool all = false;
};

/// What `check` throws begins with the flag that was wrong.
void check_flag(const char* flag, const std::function<void()>& check) {
  try {
    check();
  } catch (const UserError& error) {
    throw UserError(fmt::format("{}: {}", flag, error.what()));
  }
}

std::vector<std::string> checked_formats(const std::vector<std::string>& names) {
  if (names == std::vector<std::string>{kNone}) return {};
  std::vector<std::string> formats;
  for (const std::string& name : names) {
    check_flag("--what-if", [&] { number_format(name); });
    if (std::find(formats.begin(), formats.end(), name) == formats.end()) formats.push_back(name);
  }
  return formats;
}

/// Of the precision that is judged, with the meaning of the key loss_scale: a number, or the scale
/// that the run has now, or the one that a new run begins with.
std::optional<double> loss_scale_of(const TrainConfig& config, const std::string& run,
                                    const LoadedStep& loaded) {
  if (!parse_precision(config.precision).loss_scaling) return std::nullopt;
  if (const std::optional<double> fixed = parse_number(config.loss_scale)) return fixed;
  if (run.empty()) return config.scaler.init_scale;
  const StateDict trainer = load_model_of(checkpoint_folder(run, loaded.optimizer_step())).trainer;
  return trainer.values.contains("scaler.scale") ? trainer.get<double>("scaler.scale")
                                                 : config.scaler.init_scale;
}

Comparison compare_step(const CompareArguments& arguments, const StepArguments& step_arguments,
                        std::string& title) {
  CompareOptions options{.against = arguments.against,
                         .what_if = checked_formats(arguments.what_if)};
  check_flag("--against", [&] { parse_precision(arguments.against); });
  const TrainConfig config = step_arguments.config();
  const bool is_judged =
      step_arguments.has_flag("precision") || config.precision != arguments.against;
  const TrainConfig judged = is_judged ? config : in_precision(config, options.precision);
  parse_precision(judged.precision);  // refuses auto, before data is read
  options.precision = judged.precision;
  options.keep_fp32 = judged.keep_fp32;
  options.layer_precision = judged.layer_precision;
  StageProgress progress;
  const auto show = [&](const std::string& stage, double share) { progress.show(stage, share); };
  const std::unique_ptr<LoadedStep> loaded = step_arguments.load(config, show);
  title = step_arguments.title(*loaded);
  options.loss_scale = loss_scale_of(judged, step_arguments.run(), *loaded);
  options.device = loaded->inputs().device;
  options.progress = show;
  Comparison comparison = compare_precisions(loaded->step(), options);
  progress.clear();
  return comparison;
}

void run_compare(const CompareArguments& arguments, const StepArguments& step_arguments) {
  check_output_file("--html", arguments.page);
  std::string title;
  const Comparison comparison = compare_step(arguments, step_arguments, title);
  if (!arguments.page.empty())
    write_file_atomically(arguments.page, compare_page(comparison, title));
  if (arguments.json) {
    print(to_json(comparison) + "\n");
    return;
  }
  const std::size_t rows = arguments.all ? std::numeric_limits<std::size_t>::max() : kShownTensors;
  print(comparison_text(comparison, {.rows = rows, .step = title, .all_flag = "--all"}));
  if (!arguments.page.empty()) print(fmt::format("\npage         {}\n", arguments.page));
}

}  // namespace

void add_compare_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand(
      "compare", "Compute one training step in two precisions and judge the lower one");
  auto arguments = std::make_shared<CompareArguments>();
  auto step_arguments = std::make_shared<StepArguments>(*command);
  command->add_option("--against", arguments->against, "The reference [32-true]")
      ->type_name("NAME");
  command
      ->add_option("--what-if", arguments->what_if,
                   "Formats that each tensor is stored in on trial, with commas between; none "
                   "[bf16,fp16,fp8-e4m3,fp8-e5m2,int8]")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->type_name("LIST");
  command->add_option("--html", arguments->page, "Write a page to this file")->type_name("FILE");
  command->add_flag("--json", arguments->json, "One JSON document on stdout");
  command->add_flag("--all", arguments->all, "List all tensors, not only the worst");
  command->get_option("--precision")
      ->description("What is judged (default: the run's; bf16-mixed if that is the reference)");
  command->get_option("--loss-scale")
      ->description(
          "Scale of the loss in the judged precision; dynamic: the run's present one, of a new run "
          "scaler.init_scale [dynamic]");
  command->footer(
      "Examples:\n"
      "  halftone compare runs/poems --html compare.html\n"
      "  halftone compare runs/poems --step 200 --precision 16-mixed --loss-scale 1\n"
      "  halftone compare small.toml --precision int8-mixed --json\n"
      "\n"
      "Takes the flags of train. Of a run, the step after its newest checkpoint is computed, or "
      "after that of\n--step; of a configuration, the first one. Nothing is trained and nothing in "
      "the run changes. A verdict\nis a result: the exit code is 0 whatever it says.");
  command->callback([arguments, step_arguments] { run_compare(*arguments, *step_arguments); });
}

}  // namespace halftone::cli
