// SPDX-License-Identifier: Apache-2.0
#include "cli/plan_command.h"

#include <fmt/format.h>
#include <torch/utils.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <optional>

#include "cli/arguments.h"
#include "cli/plan_text.h"
#include "cli/program.h"
#include "halftone/core/device.h"
#include "halftone/core/error.h"
#include "halftone/core/log.h"
#include "halftone/machine/machine_settings.h"

namespace halftone::cli {
namespace {

constexpr std::int64_t kMostPlanned = 1024;

/// Processes that train together: on this host, or, where a network is given, on one like it each.
struct PlannedGroup {
  std::int64_t processes = 1;
  std::optional<double> network_gbit;        // 1e9 bits per second each way
  std::optional<double> network_latency_us;  // of a message

  std::int64_t on_this_host() const { return network_gbit ? 1 : processes; }
  std::optional<NetworkSpeed> network() const {
    constexpr double kLatency = 50;
    if (!network_gbit) return {};
    return NetworkSpeed{.latency_s = 1e-6 * network_latency_us.value_or(kLatency),
                        .bytes_per_s = 1e9 / 8 * *network_gbit};
  }
};

void check(const PlannedGroup& group) {
  if (group.processes < 1 || group.processes > kMostPlanned)
    throw UserError(fmt::format("--processes: expected an integer from 1 to {}, got {}",
                                kMostPlanned, group.processes));
  if (group.network_gbit && group.processes == 1)
    throw UserError("--network-gbit: expected --processes 2 or more as well, got one process");
  if (group.network_gbit && !(*group.network_gbit > 0 && std::isfinite(*group.network_gbit)))
    throw UserError(fmt::format("--network-gbit: expected a number above 0, such as 100, got {}",
                                *group.network_gbit));
  if (!group.network_latency_us) return;
  if (!group.network_gbit)
    throw UserError("--network-latency-us: expected --network-gbit as well, got none");
  if (!(*group.network_latency_us >= 0 && std::isfinite(*group.network_latency_us)))
    throw UserError(fmt::format("--network-latency-us: expected 0 or more, such as 30, got {}",
                                *group.network_latency_us));
}

/// Cores and threads as `halftone launch` divides them.
HostShare host_share(const TrainConfig& config, std::int64_t processes) {
  const MachineSettings settings = machine_settings();
  HostShare host{
      .processes = processes, .threads = torch::get_num_threads(), .cores = usable_cpus(settings)};
  if (config.threads > 0)
    host.threads = config.threads;
  else if (processes > 1 && !settings.environment.contains("OMP_NUM_THREADS"))
    host.threads = std::max<std::int64_t>(1, host.cores / processes);
  return host;
}

/// Of each process while all of the host compute. Also wakes the libraries that will compute.
MachineSpeed measure_shared_speed(const HostShare& host) {
  torch::set_num_threads(static_cast<int>(host.busy_cores()));
  const MachineSpeed all = measure_machine_speed();
  torch::set_num_threads(static_cast<int>(host.threads));
  return part_of(all, 1 / static_cast<double>(host.processes));
}

void run_plan(const ConfigArguments& arguments, const PlannedGroup& group, bool json) {
  check(group);
  const TrainConfig config = arguments.resolve();
  if (!resolve_device(config.device).is_cpu())
    throw UserError("plan: expected --device cpu: this version predicts the memory of the CPU");
  if (!config.keep_fp32.empty())
    log_note("plan: what keep_fp32 names is counted as if it were not kept in fp32");
  const HostShare host = host_share(config, group.on_this_host());
  PlanRequest request =
      plan_request(config, planned_model(config),
                   {.all = group.processes, .on_this_host = group.on_this_host()});
  const MachineSpeed speed = measure_shared_speed(host);
  const std::uint64_t process = process_bytes();
  if (group.processes > 1)
    request.exchange = measure_exchange_speed(request.share, host, group.network());
  const RunPlan plan = halftone::plan_run(request, speed, process);
  const PlannedRun run{config, request, plan};
  print(json ? planned_run_json(run) : planned_run_text(run));
}

}  // namespace

void add_plan_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand(
      "plan", "Predict memory and time of a run in every recipe, without training");
  auto json = std::make_shared<bool>(false);
  command->add_flag("--json", *json, "One JSON document on stdout");
  auto group = std::make_shared<PlannedGroup>();
  command->add_option("--processes", group->processes,
                      "Processes that train together (halftone launch): bytes and seconds of one "
                      "of them; all on this machine, whose loopback is measured");
  command->add_option("--network-gbit", group->network_gbit,
                      "Instead: each has a machine like this one, with a link of so many 1e9 bits "
                      "per second each way");
  command->add_option("--network-latency-us", group->network_latency_us,
                      "Microseconds of a message on that network [50]");
  auto arguments = std::make_shared<ConfigArguments>(*command);
  command->footer(
      "Examples:\n"
      "  halftone plan --preset minimind-1b --seq-len 1024 --batch-size 1 --memory-budget 8GiB\n"
      "  halftone plan small.toml --batch-size 16 --json\n"
      "  halftone plan small.toml --processes 2 --shard gradients\n"
      "  halftone plan small.toml --processes 16 --network-gbit 25\n"
      "\n"
      "Takes the flags of train, needs no data, and measures the machine for about a second. What "
      "fits into the\nbudget comes first, the fastest first; train refuses what does not fit.");
  command->callback([arguments, group, json] { run_plan(*arguments, *group, *json); });
}

}  // namespace halftone::cli
