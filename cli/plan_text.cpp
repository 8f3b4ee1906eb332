// SPDX-License-Identifier: Apache-2.0
#include "cli/plan_text.h"

#include <fmt/format.h>
#include <torch/utils.h>

#include <cstdint>
#include <limits>
#include <nlohmann/json.hpp>

#include "cli/program.h"
#include "halftone/core/text.h"

namespace halftone::cli {
namespace {

bool is_unlimited(const RunPlan& plan) {
  return plan.budget_bytes == std::numeric_limits<std::uint64_t>::max();
}

std::string on_disk(const MemoryBytes& bytes) {
  return bytes.disk > 0 ? fmt::format("  {} on disk", format_bytes(bytes.disk)) : "";
}

/// "3.1 ms", "120 ms", "4.5 s".
std::string short_seconds(double seconds) {
  if (seconds >= 1) return format_seconds(seconds);
  return seconds < 0.01 ? fmt::format("{:.1f} ms", 1e3 * seconds)
                        : fmt::format("{:.0f} ms", 1e3 * seconds);
}

std::string planned_row(const RecipePlan& recipe, bool has_exchange) {
  const MemoryBytes& bytes = recipe.bytes;
  std::string row = fmt::format(
      "{:<13} {:<8} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}", recipe.precision,
      recipe.memory, format_bytes(bytes.total()), format_bytes(bytes.weights),
      format_bytes(bytes.gradients), format_bytes(bytes.states), format_bytes(bytes.activations),
      format_bytes(bytes.workspace), format_bytes(bytes.process), short_seconds(recipe.step_s));
  if (has_exchange)
    row += fmt::format(" {:>9} {:>9}", short_seconds(recipe.exchange.all),
                       short_seconds(recipe.exchange.exposed));
  return row + on_disk(bytes) + (recipe.layer_precision.empty() ? "" : "  with layer_precision") +
         (recipe.fits ? "" : "  does not fit") + "\n";
}

std::string conclusion(const RunPlan& plan) {
  if (plan.choice)
    return fmt::format("\nthe fastest that fits: --precision {} --memory {}\n",
                       plan.choice->precision, plan.choice->memory);
  return "\nnone fits: take a smaller --batch-size, --seq-len or model\n";
}

/// "26.9M parameters", "26.9M parameters, of which 0.4M are trained".
std::string planned_model_text(const PlanRequest& request) {
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
                     share.weights     ? "states, gradients and weights shared"
                     : share.gradients ? "states and gradients shared"
                     : share.states    ? "states shared"
                                       : "nothing shared");
}

/// "network    50 us a message and 1.2 GB/s each way; the backward pass hides what is not exposed".
std::string network_text(const std::optional<ExchangeSpeed>& exchange) {
  if (!exchange) return "";
  return fmt::format("network    {:.0f} us a message and {:.2f} GB/s each way; {}\n",
                     1e6 * exchange->network.latency_s, exchange->network.bytes_per_s / 1e9,
                     exchange->is_hidden
                         ? "the backward pass hides what is not exposed"
                         : "hidden by nothing, since it takes the cores that compute");
}

nlohmann::ordered_json recipe_json(const RecipePlan& recipe) {
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
          {"exchange_s", recipe.exchange.all},
          {"exposed_exchange_s", recipe.exchange.exposed},
          {"fits", recipe.fits}};
}

nlohmann::ordered_json network_json(const std::optional<ExchangeSpeed>& exchange) {
  if (!exchange) return {};
  return {{"latency_s", exchange->network.latency_s},
          {"bytes_per_s", exchange->network.bytes_per_s},
          {"is_hidden", exchange->is_hidden}};
}

}  // namespace

std::string planned_run_text(const PlannedRun& run) {
  const bool has_exchange = run.request.exchange.has_value();
  std::string text = fmt::format(
      "model      {}, vocabulary {}\n"
      "step       {} x {} tokens, {}, {}\n"
      "budget     {}\n"
      "{}\n"
      "{:<13} {:<8} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}{}\n",
      planned_model_text(run.request), run.request.model.vocab_size, run.config.batch_size,
      run.request.shape.predictions,
      counted(static_cast<std::uint64_t>(run.config.accumulate), "micro-batch", "micro-batches"),
      counted(static_cast<std::uint64_t>(torch::get_num_threads()), "thread", "threads"),
      budget_text(run.plan, run.request.share), network_text(run.request.exchange), "precision",
      "memory", "peak", "weights", "gradients", "states", "activ.", "workspace", "process", "step",
      has_exchange ? "  exchange   exposed" : "");
  for (const RecipePlan& recipe : run.plan.recipes) text += planned_row(recipe, has_exchange);
  return text + conclusion(run.plan);
}

std::string planned_run_json(const PlannedRun& run) {
  using nlohmann::ordered_json;
  const RunPlan& plan = run.plan;
  ordered_json document = {
      {"parameters", parameter_count(run.request.model)},
      {"batch_size", run.config.batch_size},
      {"seq_len", run.config.seq_len},
      {"accumulate", run.config.accumulate},
      {"threads", torch::get_num_threads()},
      {"processes", run.request.share.processes},
      {"shard", run.config.shard},
      {"network", network_json(run.request.exchange)},
      {"budget_bytes", is_unlimited(plan) ? ordered_json() : ordered_json(plan.budget_bytes)},
      {"recipes", ordered_json::array()},
      {"choice", plan.choice ? recipe_json(*plan.choice) : ordered_json()}};
  for (const RecipePlan& recipe : plan.recipes) document["recipes"].push_back(recipe_json(recipe));
  return document.dump(2) + "\n";
}

}  // namespace halftone::cli
