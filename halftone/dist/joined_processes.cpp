// SPDX-License-Identifier: Apache-2.0
#include "halftone/dist/joined_processes.h"

#include <fmt/format.h>

#include <chrono>
#include <optional>
#include <string>

#include "halftone/core/error.h"
#include "halftone/core/log.h"
#include "halftone/core/text.h"
#include "halftone/dist/join_process_group.h"
#include "halftone/dist/process_place.h"

namespace halftone {
namespace {

constexpr const char* kTimeout = "HALFTONE_PROCESS_TIMEOUT";
constexpr double kDefaultTimeout = 1800.0;

std::chrono::milliseconds timeout_from_environment() {
  const std::optional<std::string> text = process_environment()(kTimeout);
  const double seconds = text ? parse_number(*text).value_or(0.0) : kDefaultTimeout;
  constexpr double kMost = 1e7;
  if (!(seconds >= 1.0 && seconds <= kMost))
    throw UserError(fmt::format("expected {} to be a number of seconds from 1 to {:g}, got '{}'",
                                kTimeout, kMost, text.value_or("")));
  return std::chrono::milliseconds(static_cast<std::int64_t>(seconds * 1e3));
}

std::shared_ptr<ProcessGroup> join() {
  const ProcessPlace place = find_process_place();
  if (place.is_alone()) return nullptr;
  if (place.rank != 0) set_log_level(LogLevel::kWarning);  // process 0 says the same
  return join_process_group(place, {.operation_timeout = timeout_from_environment()});
}

}  // namespace

std::shared_ptr<ProcessGroup> joined_processes() {
  static const std::shared_ptr<ProcessGroup> joined = join();
  return joined;
}

}  // namespace halftone
