// SPDX-License-Identifier: Apache-2.0
#include "halftone/dist/process_place.h"

#include <fmt/format.h>

#include <cstdlib>

#include "halftone/core/error.h"
#include "halftone/dist/place_variables_impl.h"

namespace halftone {
namespace {

constexpr PlaceVariables::Range kPorts{1, 65535};

ProcessPlace torchrun_place(const PlaceVariables& variables) {
  ProcessPlace place;
  place.launcher = "torchrun";
  variables.read_rank(place, "RANK", "WORLD_SIZE");
  variables.read_local_rank(place, "LOCAL_RANK", "LOCAL_WORLD_SIZE");
  place.own_store = variables.text("TORCHELASTIC_USE_AGENT_STORE") != "True";
  place.attempt = variables.number("TORCHELASTIC_RESTART_COUNT", {}).value_or(0);
  return place;
}

ProcessPlace open_mpi_place(const PlaceVariables& variables) {
  ProcessPlace place;
  place.launcher = "Open MPI";
  variables.read_rank(place, "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE");
  variables.read_local_rank(place, "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE");
  if (place.on_one_host()) place.address = "127.0.0.1";
  place.port = kStorePort;
  return place;
}

// mpirun and torchrun run inside steps of Slurm's, so that Slurm's variables are looked at last.
ProcessPlace launched_place(const PlaceVariables& variables) {
  if (variables.has("RANK") || variables.has("WORLD_SIZE")) return torchrun_place(variables);
  if (variables.has("OMPI_COMM_WORLD_RANK") || variables.has("OMPI_COMM_WORLD_SIZE"))
    return open_mpi_place(variables);
  if (variables.has("SLURM_STEP_ID")) return slurm_place(variables);
  return {};
}

bool is_loopback(const std::string& address) {
  return address == "localhost" || address == "::1" || address.starts_with("127.");
}

void read_store(const PlaceVariables& variables, const ProcessPlaceOptions& options,
                ProcessPlace& place) {
  if (const auto address = variables.text("MASTER_ADDR")) place.address = *address;
  if (!options.address.empty()) place.address = options.address;
  if (place.address.empty())
    throw UserError(
        fmt::format("this is process {} of {}, but the environment has no MASTER_ADDR: set it to "
                    "the host of process 0",
                    place.rank, place.size));
  const auto port = variables.number("MASTER_PORT", kPorts);
  if (port) place.port = static_cast<std::uint16_t>(*port);
  if (options.port) place.port = *options.port;
  if (place.port == 0)
    throw UserError(
        fmt::format("this is process {} of {}, but the environment has no MASTER_PORT: set it to a "
                    "free port of the host "
                    "of process 0, the same for all processes",
                    place.rank, place.size));
}

}  // namespace

Environment process_environment() {
  return [](const std::string& name) -> std::optional<std::string> {
    const char* const value = std::getenv(name.c_str());
    if (value == nullptr) return std::nullopt;
    return value;
  };
}

ProcessPlace find_process_place(const ProcessPlaceOptions& options,
                                const Environment& environment) {
  const PlaceVariables variables(environment);
  ProcessPlace place = launched_place(variables);
  if (place.is_alone()) return {};
  read_store(variables, options, place);
  // Where variables were set by hand, those of the host are often left out.
  if (is_loopback(place.address) && !variables.has("LOCAL_RANK") && place.launcher == "torchrun") {
    place.local_rank = place.rank;
    place.local_size = place.size;
  }
  return place;
}

bool ProcessPlace::on_one_host() const { return local_size == size || is_loopback(address); }

}  // namespace halftone
