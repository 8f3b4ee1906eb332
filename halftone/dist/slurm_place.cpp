// SPDX-License-Identifier: Apache-2.0
// Slurm sets variables for a whole job, and for each task of a step that srun started. Only the
// latter are processes beside this one: a batch script has SLURM_NTASKS, too, and runs once.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <string_view>

#include "halftone/core/error.h"
#include "halftone/dist/place_variables_impl.h"

namespace halftone {
namespace {

constexpr std::int64_t kSlurmPorts = 15000, kSlurmPortCount = 10000;

std::optional<std::int64_t> leading_number(std::string_view& text) {
  std::int64_t value = 0;
  const auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || value < 0 || value > kMaxProcesses) return std::nullopt;
  text.remove_prefix(static_cast<std::size_t>(stop - text.data()));
  return value;
}

bool skip(std::string_view& text, std::string_view word) {
  if (!text.starts_with(word)) return false;
  text.remove_prefix(word.size());
  return true;
}

// Tasks of this node, where Slurm says so.
void read_tasks_of_node(const PlaceVariables& variables, ProcessPlace& place) {
  if (const auto tasks = variables.text("SLURM_STEP_TASKS_PER_NODE")) {
    const std::int64_t node = variables.number("SLURM_NODEID", {0, kMaxProcesses}).value_or(0);
    const std::optional<std::int64_t> count = tasks_of_node(*tasks, node);
    if (!count || *count > place.size)
      throw UserError(
          fmt::format("the environment's SLURM_STEP_TASKS_PER_NODE must be of the form '4(x2),3' "
                      "and name {} tasks at "
                      "most for node {}, but it is '{}'; srun sets it",
                      place.size, node, *tasks));
    place.local_size = *count;
  }
  place.local_rank = variables.number("SLURM_LOCALID", {0, place.size - 1}).value_or(0);
  place.local_size = std::max(place.local_size, place.local_rank + 1);
}

}  // namespace

std::optional<std::string> first_host(const std::string& node_list) {
  std::string host;
  for (std::size_t i = 0; i < node_list.size() && node_list[i] != ',';) {
    if (node_list[i] != '[') {
      if (node_list[i] == ']') return std::nullopt;
      host += node_list[i++];
      continue;
    }
    const std::size_t close = node_list.find(']', i);
    const std::size_t stop = node_list.find_first_of("-,]", i);
    if (close == std::string::npos || stop == i + 1) return std::nullopt;
    host += node_list.substr(i + 1, stop - i - 1);
    i = close + 1;
  }
  if (host.empty()) return std::nullopt;
  return host;
}

std::optional<std::int64_t> tasks_of_node(const std::string& tasks_per_node, std::int64_t node) {
  std::string_view rest = tasks_per_node;
  std::optional<std::int64_t> found;
  while (true) {
    const std::optional<std::int64_t> tasks = leading_number(rest);
    if (!tasks) return std::nullopt;
    std::int64_t nodes = 1;
    if (skip(rest, "(x")) {
      const std::optional<std::int64_t> repeated = leading_number(rest);
      if (!repeated || !skip(rest, ")")) return std::nullopt;
      nodes = *repeated;
    }
    if (!found && node < nodes) found = tasks;
    node -= nodes;
    if (rest.empty()) return found;
    if (!skip(rest, ",")) return std::nullopt;
  }
}

ProcessPlace slurm_place(const PlaceVariables& variables) {
  ProcessPlace place;
  place.launcher = "Slurm";
  variables.read_rank(place, "SLURM_PROCID", "SLURM_STEP_NUM_TASKS");
  if (place.is_alone()) return place;
  read_tasks_of_node(variables, place);
  if (!variables.has("MASTER_ADDR")) {
    const std::string nodes = variables.text_beside("SLURM_STEP_NODELIST", "SLURM_STEP_ID");
    const std::optional<std::string> host = first_host(nodes);
    if (!host)
      throw UserError(
          fmt::format("the environment's SLURM_STEP_NODELIST must be of the form "
                      "'node[01-04],gpu7', but it is '{}'; "
                      "srun sets it, and MASTER_ADDR goes before it",
                      nodes));
    place.address = *host;
  }
  // Steps of several jobs may share a host: each job has a port of its own.
  const auto job = variables.number("SLURM_JOB_ID", {});
  place.port = static_cast<std::uint16_t>(job ? kSlurmPorts + *job % kSlurmPortCount : kStorePort);
  return place;
}

}  // namespace halftone
