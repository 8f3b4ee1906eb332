// SPDX-License-Identifier: Apache-2.0
#include "halftone/optim/lr_schedule.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <optional>

#include "halftone/core/error.h"
#include "halftone/core/text.h"

namespace halftone {
namespace {

double scheduled(Schedule kind, double lr, double progress) {
  const double wave = 1.0 + std::cos(std::numbers::pi * progress);  // from 2 to 0
  switch (kind) {
    case Schedule::kMinimind:
      return lr / 10.0 + 0.5 * lr * wave;
    case Schedule::kCosine:
      return lr / 10.0 + 0.45 * lr * wave;
    case Schedule::kLinear:
      return lr * (1.0 - progress);
    case Schedule::kConstant:
      return lr;
  }
  return lr;
}

}  // namespace

double learning_rate(const LrScheduleOptions& options, double position, double total) {
  HALFTONE_CHECK(total > 0.0, "[lr_schedule] expected a run of positive length, got ", total);
  HALFTONE_CHECK(position >= 0.0, "[lr_schedule] expected a position of at least 0, got ",
                 position);
  HALFTONE_CHECK(options.warmup >= 0.0, "[lr_schedule] expected a warmup of at least 0, got ",
                 options.warmup);
  const double rate = scheduled(options.kind, options.lr, std::min(position / total, 1.0));
  if (position >= options.warmup) return rate;
  return rate * (position + 1.0) / (options.warmup + 1.0);
}

const std::vector<std::string>& schedule_names() {
  static const std::vector<std::string> names = {"minimind", "cosine", "linear", "constant"};
  return names;
}

Schedule parse_schedule(std::string_view name) {
  const std::vector<std::string>& names = schedule_names();
  const auto found = std::find(names.begin(), names.end(), name);
  if (found != names.end()) return static_cast<Schedule>(found - names.begin());
  const std::optional<std::string> nearest = nearest_match(name, names);
  throw UserError(fmt::format("expected a schedule out of {}, got '{}'{}", fmt::join(names, ", "),
                              name, nearest ? fmt::format("; did you mean '{}'?", *nearest) : ""));
}

std::string_view schedule_name(Schedule schedule) {
  return schedule_names().at(static_cast<std::size_t>(schedule));
}

}  // namespace halftone
