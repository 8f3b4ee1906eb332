// SPDX-License-Identifier: Apache-2.0
#include "cli/plan_command.h"

#include <fmt/format.h>
#include <torch/utils.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdint>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "cli/arguments.h"
#include "cli/program.h"
#include "halftone/core/device.h"
#include "halftone/core/error.h"
#include "halftone/core/log.h"
#include "halftone/core/text.h"
#include "halftone/pretrain/plan_request.h"

namespace halftone::cli {
namespace {

constexpr std::int64_t kMostPlanned = 1024;

bool is_unlimited(const RunPlan& plan) {
  return plan.budget_bytes == std::numeric_limits<std::uint64_t>::max();
}

std::string on_disk(const MemoryBytes& bytes) {
  return bytes.disk > 0 ? fmt::format("  {} on disk", format_bytes(bytes.disk)) : "";
}

std::string row_of(const RecipePlan& recipe) {
  const MemoryBytes& bytes = recipe.bytes;
  return fmt::format(
      "{:<13} {:<8} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}{}\n", recipe.precision,
      recipe.memory, format_bytes(bytes.total()), format_bytes(bytes.weights),
      format_bytes(bytes.gradients), format_bytes(bytes.states), format_bytes(bytes.activations),
      format_bytes(bytes.workspace), format_bytes(bytes.process),
      recipe.step_s < 1 ? fmt::format("{:.0f} ms", 1e3 * recipe.step_s)
                        : format_seconds(recipe.step_s),
      on_disk(bytes) + (recipe.layer_precision.empty() ? "" : "  with layer_precision") +
          (recipe.fits ? "" : "  does not fit"));
}

std::string conclusion(const RunPlan& plan) {
  if (plan.choice)
    return fmt::format("\nthe fastest that fits: --precision {} --memory {}\n",
                       plan.choice->precision, plan.choice->memory);
  return "\nnone fits: take a smaller --batch-size, --seq-len or model\n";
}

/// "26.9M parameters", "26.9M parameters, of which 0.4M are trained".
std::string model_text(const PlanRequest& request) {
  std::int64_t all = parameter_count(request.model), trained = 0;
  for (const NamedShape& matrix : adapter_shapes(request.lora, request.model))
    trained += matrix.sizes[0] * matrix.sizes[1];
  all += trained;
  const std::string text = fmt::format("{} parameters", short_count(static_cast<double>(all)));
  if (trained == 0) return text;
  return fmt::format("{}, of which {} are trained", text,
                     short_count(static_cast<double>(trained)));
}

/// "none", "3.2 GiB", "3.2 GiB for each of 4 processes, states shared".
std::string budget_text(const RunPlan& plan, const AdamWShare& share) {
  std::string text = is_unlimited(plan) ? "none" : format_bytes(plan.budget_bytes);
  if (share.processes == 1) return text;
  return fmt::format("{} for each of {} processes, {}", text, share.processes,
                     share.gradients ? "states and gradients shared"
                     : share.states  ? "states shared"
                                     : "nothing shared");
}

std::string text_of(const RunPlan& plan, const PlanRequest& request, const TrainConfig& config) {
  std::string text = fmt::format(
      "model      {}, vocabulary {}\n"
      "step       {} x {} tokens, {}, {}\n"
      "budget     {}\n\n"
      "{:<13} {:<8} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}\n",
      model_text(request), request.model.vocab_size, config.batch_size, request.shape.predictions,
      counted(static_cast<std::uint64_t>(config.accumulate), "micro-batch", "micro-batches"),
      counted(static_cast<std::uint64_t>(torch::get_num_threads()), "thread", "threads"),
      budget_text(plan, request.share), "precision", "memory", "peak", "weights", "gradients",
      "states", "activ.", "workspace", "process", "step");
  for (const RecipePlan& recipe : plan.recipes) text += row_of(recipe);
  return text + conclusion(plan);
}

nlohmann::ordered_json json_of(const RecipePlan& recipe) {
  const MemoryBytes& bytes = recipe.bytes;
  return {{"precision", recipe.precision},
          {"layer_precision", recipe.layer_precision},
          {"memory", recipe.memory},
          {"peak_bytes", bytes.total()},
          {"bytes",
           {{"weights", bytes.weights},
            {"gradients", bytes.gradients},
            {"states", bytes.states},
            {"activations", bytes.activations},
            {"workspace", bytes.workspace},
            {"process", bytes.process}}},
          {"disk_bytes", bytes.disk},
          {"step_s", recipe.step_s},
          {"fits", recipe.fits}};
}

std::string json_of(const RunPlan& plan, const PlanRequest& request, const TrainConfig& config) {
  using nlohmann::ordered_json;
  ordered_json document = {
      {"parameters", parameter_count(request.model)},
      {"batch_size", config.batch_size},
      {"seq_len", config.seq_len},
      {"accumulate", config.accumulate},
      {"threads", torch::get_num_threads()},
      {"processes", request.share.processes},
      {"shard", config.shard},
      {"budget_bytes", is_unlimited(plan) ? ordered_json() : ordered_json(plan.budget_bytes)},
      {"recipes", ordered_json::array()},
      {"choice", plan.choice ? json_of(*plan.choice) : ordered_json()}};
  for (const RecipePlan& recipe : plan.recipes) document["recipes"].push_back(json_of(recipe));
  return document.dump(2) + "\n";
}

/// Of the cores that one process may use, the part of each; as `halftone launch` divides them.
void share_cores(std::int64_t processes) {
  const std::int64_t all = torch::get_num_threads();
  torch::set_num_threads(static_cast<int>(std::max<std::int64_t>(1, all / processes)));
}

void run_plan(const ConfigArguments& arguments, std::int64_t processes, bool json) {
  if (processes < 1 || processes > kMostPlanned)
    throw UserError(fmt::format("--processes: expected an integer from 1 to {}, got {}",
                                kMostPlanned, processes));
  const TrainConfig config = arguments.resolve();
  if (!resolve_device(config.device).is_cpu())
    throw UserError("plan: expected --device cpu: this version predicts the memory of the CPU");
  if (!config.keep_fp32.empty())
    log_note("plan: what keep_fp32 names is counted as if it were not kept in fp32");
  if (config.threads > 0)
    torch::set_num_threads(static_cast<int>(config.threads));
  else
    share_cores(processes);
  const PlanRequest request =
      plan_request(config, planned_model(config), {.all = processes, .on_this_host = processes});
  const MachineSpeed speed = measure_machine_speed();  // also wakes the libraries that will compute
  const RunPlan plan = halftone::plan_run(request, speed, process_bytes());
  print(json ? json_of(plan, request, config) : text_of(plan, request, config));
}

}  // namespace

void add_plan_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand(
      "plan", "Predict memory and time of a run in every recipe, without training");
  auto json = std::make_shared<bool>(false);
  command->add_flag("--json", *json, "One JSON document on stdout");
  auto processes = std::make_shared<std::int64_t>(1);
  command->add_option(
      "--processes", *processes,
      "Processes on this machine that train together (halftone launch): bytes of one, "
      "and its seconds without the exchange");
  auto arguments = std::make_shared<ConfigArguments>(*command);
  command->footer(
      "Examples:\n"
      "  halftone plan --preset minimind-1b --seq-len 1024 --batch-size 1 --memory-budget 8GiB\n"
      "  halftone plan small.toml --batch-size 16 --json\n"
      "  halftone plan small.toml --processes 2 --shard gradients\n"
      "\n"
      "Takes the flags of train, needs no data, and measures the machine for about a second. What "
      "fits into the\nbudget comes first, the fastest first; train refuses what does not fit.");
  command->callback([arguments, processes, json] { run_plan(*arguments, *processes, *json); });
}

}  // namespace halftone::cli
