// SPDX-License-Identifier: Apache-2.0
#include "cli/tune_text.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/utils.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <vector>

#include "cli/program.h"
#include "halftone/core/text.h"
#include "halftone/pretrain/config_schema.h"

namespace halftone::cli {
namespace {

using nlohmann::ordered_json;

/// What a choice is meant to give: this part of the reference's time.
constexpr double kGoal = 0.75;

std::string ms(double seconds) { return fmt::format("{:.0f} ms", 1e3 * seconds); }

std::string signed_loss(double change) { return fmt::format("{:+.4f}", change); }

/// What a format adds to the square of the gradients' error.
double added_error(const TuneResult& tuning, const FormatMeasurement& one) {
  const double added = one.error * one.error - tuning.reference.error * tuning.reference.error;
  return std::sqrt(std::max(0.0, added));
}

std::string reference_text(const TuneResult& tuning) {
  std::string text =
      fmt::format("reference  {}: {} forward and backward, gradients {:.4f} off 32-true ({})\n",
                  tuning.precision, ms(tuning.reference.seconds), tuning.reference.error,
                  ms(tuning.exact.seconds));
  for (const MeasuredStep& corner : tuning.corners)
    text += fmt::format("           {}: {} ({:.2f}), gradients {:.4f} off, loss {}\n", corner.name,
                        ms(corner.seconds), corner.seconds / tuning.reference.seconds, corner.error,
                        signed_loss(corner.loss_change - tuning.reference.loss_change));
  return text + fmt::format(
                    "bounds     gradients {:.4f} off (the choice of the batch makes {:.2f}), loss "
                    "{:.4f} off\n",
                    tuning.error_bound, tuning.sampling_noise, tuning.loss_bound);
}

std::string layers_text(const TuneResult& tuning, std::size_t rows) {
  struct Row {
    const TunedLayers* layers;
    const FormatMeasurement* format;
  };
  std::vector<Row> all;
  std::size_t unmeasured = 0;
  for (const TunedLayers& layers : tuning.layers) {
    unmeasured += layers.is_measured ? 0 : 1;
    for (const FormatMeasurement& one : layers.formats) all.push_back({&layers, &one});
  }
  std::stable_sort(all.begin(), all.end(),
                   [](const Row& a, const Row& b) { return a.format->error > b.format->error; });
  std::string text = fmt::format("\n{:<34} {:>7} {:>16} {:>10} {:>9}  {}\n", "layers", "format",
                                 "time", "gradients", "loss", "choice");
  for (std::size_t i = 0; i < std::min(rows, all.size()); ++i) {
    const auto& [layers, one] = all[i];
    text +=
        fmt::format("{:<34} {:>7} {:>16} {:>10} {:>9}  {}\n", layers->name, to_string(one->format),
                    fmt::format("{:.1f} -> {:.1f} ms", 1e3 * layers->seconds, 1e3 * one->seconds),
                    fmt::format("+{:.4f}", added_error(tuning, *one)),
                    signed_loss(one->loss_change), to_string(layers->choice));
  }
  if (all.size() > rows) text += fmt::format("and {} more (--all)\n", all.size() - rows);
  if (all.empty()) text += "no format is faster in any layer\n";
  if (unmeasured > 0)
    text += fmt::format("{} not measured, and left as they are: time was up; raise --max-time\n",
                        counted(unmeasured, "group of layers was", "groups of layers were"));
  return text;
}

std::string counts_of(const TunePoint& point) {
  std::vector<std::string> parts;
  for (const auto& [type, count] : point.modules_in)
    parts.push_back(fmt::format("{} in {}", count, to_string(type)));
  return fmt::format("{}", fmt::join(parts, ", "));
}

std::string line_text(const TuneResult& tuning) {
  std::string text = fmt::format("\nbest choices, predicted\n{:>10} {:>9} {:>17}  {}\n",
                                 "gradients", "time", "of " + tuning.precision, "layers");
  for (const TunePoint& point : tuning.line)
    text += fmt::format("{:>10.4f} {:>9} {:>17.2f}  {}\n", point.error, ms(point.seconds),
                        point.seconds / tuning.reference.seconds, counts_of(point));
  return text;
}

std::string choice_text(const TuneResult& tuning) {
  if (tuning.formats.empty()) return fmt::format("\nchoice     {}\n", tuning.verdict);
  const auto figures = [&](double seconds, double error) {
    return fmt::format("{} ({:.2f}), gradients {:.4f} off", ms(seconds),
                       seconds / tuning.reference.seconds, error);
  };
  return fmt::format(
      "\nchoice     {}: {}\n           predicted {}\n           measured  {}{}\n", tuning.verdict,
      counts_of(tuning.predicted), figures(tuning.predicted.seconds, tuning.predicted.error),
      figures(tuning.chosen.seconds, tuning.chosen.error),
      tuning.back_offs > 0
          ? fmt::format("; {} before it did not hold as a whole",
                        counted(static_cast<std::uint64_t>(tuning.back_offs), "choice", "choices"))
          : "");
}

/// Of the reference's time, of an optimizer step where both were trained.
double time_share(const TunedRun& tuned) {
  if (tuned.validation.steps > 0)
    return tuned.validation.second_step_s / tuned.validation.first_step_s;
  return tuned.tuning.chosen.seconds / tuned.tuning.reference.seconds;
}

bool reaches_goal(const TunedRun& tuned) {
  return tuned.validation.steps > 0 && tuned.holds && time_share(tuned) <= kGoal;
}

std::string validation_text(const TunedRun& tuned) {
  const PairedTraining& both = tuned.validation;
  if (both.steps == 0) return fmt::format("validation none: {}\n", tuned.no_validation);
  const double change = both.second_loss - both.first_loss;
  return fmt::format(
      "validation {} steps beside {}: loss {:.4f} -> {:.4f} ({}, {}), {} -> {} a step ({:.2f})\n",
      both.steps, tuned.tuning.precision, both.first_loss, both.second_loss, signed_loss(change),
      tuned.holds ? fmt::format("{} is allowed", tuned.tuning.loss_bound)
                  : "too much: the reference stays",
      ms(both.first_step_s), ms(both.second_step_s), both.second_step_s / both.first_step_s);
}

/// The fastest of what was measured as a whole, whatever its error.
std::string fastest_text(const TuneResult& tuning) {
  const MeasuredStep* fastest = &tuning.reference;
  for (const MeasuredStep& corner : tuning.corners)
    if (corner.seconds < fastest->seconds) fastest = &corner;
  return fmt::format("the fastest that was measured, {}, takes {:.2f}", fastest->name,
                     fastest->seconds / tuning.reference.seconds);
}

std::string goal_text(const TunedRun& tuned) {
  const std::string goal = fmt::format("goal       validation loss within {} at {} of {}'s time: ",
                                       tuned.tuning.loss_bound, kGoal, tuned.tuning.precision);
  if (reaches_goal(tuned)) return goal + "reached\n";
  if (tuned.validation.steps == 0) return goal + "not shown, without a validation\n";
  if (!tuned.holds) return goal + "not reached, because the loss did not hold\n";
  return goal + fmt::format("not reached on this machine: {:.2f}; {}\n", time_share(tuned),
                            fastest_text(tuned.tuning));
}

ordered_json json_of(const MeasuredStep& step) {
  return {
      {"name", step.name},
      {"step_s", step.seconds},
      {"gradient_error", std::isfinite(step.error) ? ordered_json(step.error) : nullptr},
      {"loss_change", std::isfinite(step.loss_change) ? ordered_json(step.loss_change) : nullptr}};
}

ordered_json json_of(const TunePoint& point) {
  ordered_json counts = ordered_json::object();
  for (const auto& [type, count] : point.modules_in) counts[std::string(to_string(type))] = count;
  return {{"step_s", point.seconds},
          {"gradient_error", point.error},
          {"loss_change", point.loss_change},
          {"layers", counts}};
}

ordered_json json_of(const TunedLayers& layers) {
  ordered_json formats = ordered_json::array();
  for (const FormatMeasurement& one : layers.formats)
    formats.push_back(
        {{"format", to_string(one.format)},
         {"layer_s", one.seconds},
         {"gradient_error", std::isfinite(one.error) ? ordered_json(one.error) : nullptr},
         {"loss_change",
          std::isfinite(one.loss_change) ? ordered_json(one.loss_change) : nullptr}});
  return {{"name", layers.name},       {"modules", layers.modules},
          {"layer_s", layers.seconds}, {"measured", layers.is_measured},
          {"formats", formats},        {"choice", to_string(layers.choice)}};
}

ordered_json json_of(const TunedRun& tuned) {
  const PairedTraining& both = tuned.validation;
  if (both.steps == 0) return nullptr;
  return {{"steps", both.steps},
          {"batches", both.validation_batches},
          {"reference_loss", both.first_loss},
          {"loss", both.second_loss},
          {"reference_step_s", both.first_step_s},
          {"step_s", both.second_step_s},
          {"holds", tuned.holds}};
}

template <class Item>
ordered_json list_of(const std::vector<Item>& items) {
  ordered_json list = ordered_json::array();
  for (const Item& item : items) list.push_back(json_of(item));
  return list;
}

}  // namespace

std::string precision_lines(const TrainConfig& config) {
  std::string lines;
  for (const char* key : {"precision", "keep_fp32", "layer_precision"}) {
    const ConfigField& field = config_field(key, key);
    const std::string value = to_text(field, field.get(config));
    if (value != "[]") lines += fmt::format("{} = {}\n", key, value);
  }
  return lines;
}

std::string tuned_run_text(const TunedRun& tuned, const std::string& title, std::size_t rows) {
  const TuneResult& tuning = tuned.tuning;
  return fmt::format(
             "tune       {}: {} x {} tokens, {}\n", title, tuned.config.batch_size,
             tuned.config.seq_len,
             counted(static_cast<std::uint64_t>(torch::get_num_threads()), "thread", "threads")) +
         reference_text(tuning) + layers_text(tuning, rows) + line_text(tuning) +
         choice_text(tuning) + validation_text(tuned) + goal_text(tuned) +
         fmt::format("time       {}\n\n", format_seconds(tuned.seconds)) +
         precision_lines(tuned.config);
}

std::string tuned_run_json(const TunedRun& tuned, const std::string& title) {
  const TuneResult& tuning = tuned.tuning;
  const bool has_choice = !tuning.formats.empty();
  ordered_json document = {
      {"title", title},
      {"batch_size", tuned.config.batch_size},
      {"seq_len", tuned.config.seq_len},
      {"threads", torch::get_num_threads()},
      {"exact", json_of(tuning.exact)},
      {"reference", json_of(tuning.reference)},
      {"corners", list_of(tuning.corners)},
      {"sampling_noise", tuning.sampling_noise},
      {"gradient_error_bound", tuning.error_bound},
      {"loss_bound", tuning.loss_bound},
      {"layers", list_of(tuning.layers)},
      {"line", list_of(tuning.line)},
      {"predicted", has_choice ? json_of(tuning.predicted) : nullptr},
      {"chosen", has_choice ? json_of(tuning.chosen) : nullptr},
      {"back_offs", tuning.back_offs},
      {"verdict", tuning.verdict},
      {"validation", json_of(tuned)},
      {"no_validation",
       tuned.no_validation.empty() ? ordered_json() : ordered_json(tuned.no_validation)},
      {"time_share", time_share(tuned)},
      {"goal_reached", reaches_goal(tuned)},
      {"precision", tuned.config.precision},
      {"keep_fp32", tuned.config.keep_fp32},
      {"layer_precision", tuned.config.layer_precision},
      {"tune_s", tuned.seconds}};
  return document.dump(2) + "\n";
}

}  // namespace halftone::cli
