// SPDX-License-Identifier: Apache-2.0
#include "cli/profile_command.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "cli/program.h"
#include "cli/progress.h"
#include "cli/step_arguments.h"
#include "halftone/core/error.h"
#include "halftone/core/text.h"
#include "halftone/diagnostics/profile/profile_text.h"
#include "halftone/diagnostics/profile/step_changes.h"
#include "halftone/diagnostics/profile/step_profile.h"
#include "halftone/pretrain/plan_request.h"
#include "halftone/pretrain/profile_changes.h"
#include "halftone/pretrain/ready_step.h"
#include "halftone/system/atomic_file.h"
#include "halftone/system/interrupt.h"

namespace halftone::cli {
namespace {

/// Less is noise of another day.
constexpr double kLeastGain = 0.03;

struct ProfileArguments {
  std::int64_t steps = 5;
  std::string trace;  // file
  bool all = false;
  bool advice = true;
  bool json = false;
};

/// What was found out about one step.
struct ProfileReport {
  std::string title;
  TrainConfig config;
  StepProfile profile;
  std::optional<RecipePlan> planned;
  std::vector<MeasuredChange> changes;
};

void stop_if_interrupted() {
  if (interrupted()) throw Exit{interrupted_exit_code()};
}

/// On the CPU, where plan predicts.
std::optional<RunPlan> plan_of(const TrainConfig& config, const LoadedStep& loaded) {
  if (!loaded.inputs().device.is_cpu()) return std::nullopt;
  return plan_run(plan_request(config, loaded.inputs().model), measure_machine_speed(),
                  process_bytes());
}

std::vector<MeasuredChange> measured_changes(const TrainConfig& config, ReadyStep& ready,
                                             const LoadedStep& loaded,
                                             const std::optional<RunPlan>& plan) {
  StageProgress progress;
  const RunnableStep now{.take = [&] {
    stop_if_interrupted();
    ready.step().take();
  }};
  ChangeOptions options;
  options.progress = [&](const std::string& change, double share) {
    progress.show("measuring " + change, share);
  };
  std::vector<MeasuredChange> changes = measure_changes(
      now, tokens_per_step(config),
      as_step_changes(changes_to_try(config, plan), ready, loaded.inputs()), options);
  progress.clear();
  return changes;
}

std::string speed(double tokens_per_s) { return short_count(tokens_per_s) + " tokens/s"; }

std::string gain_line(const MeasuredChange& change) {
  std::string line =
      fmt::format("  {:>5.2f}x +-{:.2f}  {:<32} {} -> {}\n", change.gain, change.noise,
                  change.change, speed(change.tokens_per_s_now), speed(change.tokens_per_s_then));
  if (!change.caveat.empty()) line += fmt::format("{:16}{}\n", "", change.caveat);
  return line;
}

std::string other_line(const MeasuredChange& change) {
  return fmt::format("  {:>5.2f}x +-{:.2f}  {:<32} no real gain\n", change.gain, change.noise,
                     change.change);
}

std::string advice_text(const std::vector<MeasuredChange>& changes) {
  std::string gains, others, failures;
  std::int64_t pairs = 0;
  for (const MeasuredChange& change : changes) {
    pairs = std::max(pairs, change.pairs);
    if (!change.failure.empty())
      failures += fmt::format("  not measured   {}: {}\n", change.change, change.failure);
    else if (change.is_real(kLeastGain))
      gains += gain_line(change);
    else
      others += other_line(change);
  }
  const std::string head = fmt::format(
      "\nadvice, measured: up to {} steps with each, in turns with the present configuration\n",
      pairs);
  const std::string none =
      gains.empty() ? "  nothing that was tried gives 3 % more tokens a second\n" : "";
  return head + none + gains + others + failures;
}

std::string header_text(const ProfileReport& report) {
  const TrainConfig& config = report.config;
  const StepProfile& profile = report.profile;
  const double step_s = typical_step_s(profile);
  std::string text = fmt::format(
      "profile    {}: {}, memory {}, {}\n", report.title, profile.precision, profile.memory,
      counted(static_cast<std::uint64_t>(profile.threads), "thread", "threads"));
  text +=
      fmt::format("batch      {} x {} tokens{}, {}\n", config.batch_size,
                  config.seq_len - (config.pack ? 0 : 1),
                  config.accumulate > 1 ? fmt::format(", {} micro-batches", config.accumulate) : "",
                  speed(tokens_per_step(config) / step_s));
  if (report.planned)
    text += fmt::format("plan       {:.2f} ms predicted: {:.2f} of what was measured\n",
                        1e3 * report.planned->step_s, report.planned->step_s / step_s);
  return text;
}

std::string text_of(const ProfileReport& report, const ProfileArguments& arguments) {
  std::string text = header_text(report) + to_text(report.profile, {.all = arguments.all});
  if (arguments.advice) text += advice_text(report.changes);
  return text;
}

nlohmann::ordered_json json_of(const MeasuredChange& change) {
  nlohmann::ordered_json row = {{"change", change.change},
                                {"caveat", change.caveat},
                                {"tokens_per_s_now", nullptr},
                                {"tokens_per_s_then", nullptr},
                                {"gain", nullptr},
                                {"noise", nullptr},
                                {"pairs", change.pairs},
                                {"real", change.is_real(kLeastGain)},
                                {"failure", nullptr}};
  if (change.failure.empty()) {
    row["tokens_per_s_now"] = change.tokens_per_s_now;
    row["tokens_per_s_then"] = change.tokens_per_s_then;
    row["gain"] = change.gain;
    row["noise"] = change.noise;
  } else {
    row["failure"] = change.failure;
  }
  return row;
}

std::string json_of(const ProfileReport& report) {
  using nlohmann::ordered_json;
  const TrainConfig& config = report.config;
  ordered_json document = {
      {"title", report.title},
      {"batch_size", config.batch_size},
      {"seq_len", config.seq_len},
      {"accumulate", config.accumulate},
      {"tokens_per_s", tokens_per_step(config) / typical_step_s(report.profile)},
      {"planned_step_s",
       report.planned ? ordered_json(report.planned->step_s) : ordered_json(nullptr)}};
  document.update(ordered_json::parse(to_json(report.profile)));
  document["advice"] = ordered_json::array();
  for (const MeasuredChange& change : report.changes) document["advice"].push_back(json_of(change));
  return document.dump(2) + "\n";
}

std::unique_ptr<LoadedStep> loaded_step(const StepArguments& step, const TrainConfig& config) {
  StageProgress progress;
  auto loaded = step.load(
      config, [&](const std::string& stage, double share) { progress.show(stage, share); });
  progress.clear();
  return loaded;
}

StepProfile profile_of(ReadyStep& ready, const ProfileArguments& arguments) {
  StageProgress progress;
  ProfileOptions options{.steps = arguments.steps, .keeps_calls = !arguments.trace.empty()};
  options.progress = [&](double share) {
    stop_if_interrupted();
    progress.show("profiling", share);
  };
  StepProfile profile = profile_step(ready.step(), options);
  progress.clear();
  return profile;
}

void run_profile(const ProfileArguments& arguments, const StepArguments& step) {
  if (arguments.steps < 1)
    throw UserError(fmt::format("--steps: expected 1 or more, got {}", arguments.steps));
  check_output_file("--trace", arguments.trace);
  TrainConfig config = step.config();
  if (config.precision == kAutoPrecision)
    throw UserError("profile: expected a named --precision, got auto; name one that plan lists");
  config = with_joined_micro_batches(std::move(config));
  const std::unique_ptr<LoadedStep> loaded = loaded_step(step, config);
  ReadyStep ready(*loaded);
  const InterruptGuard guard;  // from here on it is looked at between steps
  ProfileReport report{.title = step.title(*loaded), .config = config};
  report.profile = profile_of(ready, arguments);
  if (!arguments.trace.empty()) write_file_atomically(arguments.trace, to_trace(report.profile));
  const std::optional<RunPlan> plan = plan_of(config, *loaded);
  if (plan) report.planned = planned_recipe(*plan, config);
  if (arguments.advice) report.changes = measured_changes(config, ready, *loaded, plan);
  print(arguments.json ? json_of(report) : text_of(report, arguments));
}

}  // namespace

void add_profile_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand(
      "profile", "Show where a training step's time and memory go, and what makes it faster");
  auto arguments = std::make_shared<ProfileArguments>();
  command
      ->add_option("--steps", arguments->steps, "Steps to record, and to measure beside them [5]")
      ->type_name("N");
  command->add_option("--trace", arguments->trace, "Write the recorded calls for ui.perfetto.dev")
      ->type_name("FILE");
  command->add_flag("--all", arguments->all, "Every row of the tables, each layer by itself");
  command->add_flag("!--no-advice", arguments->advice, "Try no changes (it takes up to a minute)");
  command->add_flag("--json", arguments->json, "One JSON document on stdout");
  auto step = std::make_shared<StepArguments>(*command);
  command->footer(
      "Examples:\n"
      "  halftone profile --preset tiny --data poems.txt\n"
      "  halftone profile runs/poems --precision int8-mixed --trace trace.json\n"
      "  halftone profile small.toml --data poems.txt --json --no-advice\n"
      "\n"
      "The step is a real one, forward, backward and update, computed again and again; nothing is "
      "trained.\n`peak` is the share of what this machine was measured to do in that dtype.");
  command->callback([arguments, step] { run_profile(*arguments, *step); });
}

}  // namespace halftone::cli
