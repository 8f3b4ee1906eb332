// SPDX-License-Identifier: Apache-2.0
#include "halftone/optim/lr_schedule.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <optional>

#include "halftone/core/error.h"
#include "halftone/core/log.h"
#include "halftone/core/text.h"

namespace halftone {
namespace {

double along_cosine(double from, double to, double progress) {
  return to + (from - to) / 2.0 * (1.0 + std::cos(std::numbers::pi * progress));
}

double one_cycle(double lr, double position, double total) {
  constexpr double kRisingShare = 0.3;
  constexpr double kFirstDivisor = 25.0;
  constexpr double kLastDivisor = 1e4;
  const double first = lr / kFirstDivisor;
  const double last_position = total - 1.0;
  const double peak = kRisingShare * total - 1.0;
  if (position < peak) return along_cosine(first, lr, position / peak);
  const double falling = last_position > peak ? (position - peak) / (last_position - peak) : 1.0;
  return along_cosine(lr, first / kLastDivisor, std::clamp(falling, 0.0, 1.0));
}

double scheduled(const LrScheduleOptions& options, double progress) {
  const double lr = options.lr;
  const double wave = 1.0 + std::cos(std::numbers::pi * progress);  // from 2 to 0
  switch (options.kind) {
    case Schedule::kMinimind:
      return lr / 10.0 + 0.5 * lr * wave;
    case Schedule::kCosine:
      return lr / 10.0 + 0.45 * lr * wave;
    case Schedule::kLinear:
      return lr * (1.0 - progress);
    case Schedule::kWsd:
      return lr * std::min(1.0, (1.0 - progress) / options.decay_share);
    case Schedule::kConstant:
    case Schedule::kOneCycle:  // needs more than the share of the run: one_cycle()
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
  HALFTONE_CHECK(options.decay_share > 0.0 && options.decay_share <= 1.0,
                 "[lr_schedule] expected a decay_share above 0 and at most 1, got ",
                 options.decay_share);
  const double rate = options.kind == Schedule::kOneCycle
                          ? one_cycle(options.lr, position, total)
                          : scheduled(options, std::min(position / total, 1.0));
  if (position >= options.warmup) return rate;
  return rate * (position + 1.0) / (options.warmup + 1.0);
}

void warn_of_long_warmup(double warmup, std::int64_t steps) {
  if (warmup <= 0.0 || static_cast<double>(steps) > warmup) return;
  log_warning(
      fmt::format("the warm-up takes {:g} step{}, but the run has {}: the learning rate is still "
                  "rising at its end; make the warm-up shorter or the run longer",
                  warmup, warmup == 1.0 ? "" : "s", steps));
}

const std::vector<std::string>& schedule_names() {
  static const std::vector<std::string> names = {"minimind", "cosine",    "linear",
                                                 "constant", "one-cycle", "wsd"};
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
