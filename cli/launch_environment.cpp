// SPDX-License-Identifier: Apache-2.0
#include "cli/launch_environment.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "halftone/core/error.h"

namespace halftone::cli {
namespace {

using Variables = LaunchEnvironment::Variables;

// A port that nobody listens to; rank 0 will.
int free_port() {
  const int descriptor = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  auto* const any = reinterpret_cast<sockaddr*>(&address);
  const bool found = descriptor >= 0 && bind(descriptor, any, size) == 0 &&
                     getsockname(descriptor, any, &size) == 0;
  const int error = errno;
  if (descriptor >= 0) close(descriptor);
  if (!found) throw SystemError(fmt::format("cannot find a free port: {}", std::strerror(error)));
  return ntohs(address.sin_port);
}

// This process's environment with some variables changed; those without a value are left out.
std::vector<std::string> environment_with(const Variables& variables) {
  std::vector<std::string> result;
  for (char** entry = environ; entry != nullptr && *entry != nullptr; ++entry) {
    const std::string text = *entry;
    const std::string name = text.substr(0, text.find('='));
    if (std::none_of(variables.begin(), variables.end(),
                     [&](const auto& variable) { return variable.first == name; }))
      result.push_back(text);
  }
  for (const auto& [name, value] : variables)
    if (!value.empty()) result.push_back(fmt::format("{}={}", name, value));
  return result;
}

Variables shared_variables(const LaunchPlan& plan, int restart) {
  Variables variables = {
      {"WORLD_SIZE", std::to_string(plan.world_size())},
      {"LOCAL_WORLD_SIZE", std::to_string(plan.processes)},
      {"GROUP_RANK", std::to_string(plan.node_rank)},
      {"MASTER_ADDR", plan.master_addr},
      {"MASTER_PORT", std::to_string(plan.master_port != 0 ? plan.master_port : free_port())},
      {"TORCHELASTIC_RESTART_COUNT", std::to_string(restart)},
      {"TORCHELASTIC_USE_AGENT_STORE", ""}};  // of a torchrun around us: its store is not ours
  if (plan.threads > 0) variables.emplace_back("OMP_NUM_THREADS", std::to_string(plan.threads));
  if (plan.timeout_s > 0)
    variables.emplace_back("HALFTONE_PROCESS_TIMEOUT", std::to_string(plan.timeout_s));
  return variables;
}

}  // namespace

LaunchEnvironment::LaunchEnvironment(const LaunchPlan& plan, int restart)
    : shared_(shared_variables(plan, restart)), first_rank_(plan.first_rank()) {}

std::vector<std::string> LaunchEnvironment::of(int local_rank) const {
  Variables variables = shared_;
  variables.emplace_back("RANK", std::to_string(first_rank_ + local_rank));
  variables.emplace_back("LOCAL_RANK", std::to_string(local_rank));
  return environment_with(variables);
}

}  // namespace halftone::cli
