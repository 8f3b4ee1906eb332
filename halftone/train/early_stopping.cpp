// SPDX-License-Identifier: Apache-2.0
#include "halftone/train/early_stopping.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "halftone/core/error.h"
#include "halftone/core/log.h"
#include "halftone/train/trainer.h"

namespace halftone {

EarlyStopping::EarlyStopping(EarlyStoppingOptions options)
    : options_(std::move(options)), best_(options_.monitor, options_.mode, options_.min_delta) {
  HALFTONE_CHECK(options_.patience >= 0, "[early_stopping] expected patience >= 0, got ",
                 options_.patience);
  options_.patience = std::max<std::int64_t>(1, options_.patience);
}

bool EarlyStopping::is_better(double value, double other) const {
  return options_.mode == MonitorMode::kMin ? value < other : value > other;
}

EarlyStopping::Reason EarlyStopping::reason_to_stop() const {
  const std::string& name = options_.monitor;
  if (options_.check_finite && !std::isfinite(last_))
    return {fmt::format("{} is {}, which is not finite{}", name, last_,
                        best_.best() ? fmt::format("; the best was {:.6g}", *best_.best()) : ""),
            "set check_finite to false"};
  if (has_last_ && options_.stopping_threshold && is_better(last_, *options_.stopping_threshold))
    return {fmt::format("{} is {:.6g}, better than the {:.6g} that was asked for", name, last_,
                        *options_.stopping_threshold),
            "move stopping_threshold"};
  if (has_last_ && options_.divergence_threshold &&
      is_better(*options_.divergence_threshold, last_))
    return {fmt::format("{} is {:.6g}, worse than the {:.6g} at which a run is lost", name, last_,
                        *options_.divergence_threshold),
            "move divergence_threshold"};
  if (waited_ < options_.patience) return {};
  if (!best_.best())
    return {fmt::format("{} has not been finite for {} validations", name, waited_),
            "raise " + options_.patience_name};
  return {fmt::format("{} has not been better than {:.6g} for {} validations", name, *best_.best(),
                      waited_),
          "raise " + options_.patience_name};
}

void EarlyStopping::setup(const Trainer& trainer) {
  if (trainer.validates()) return;
  const std::string message = missing_validation("early_stopping", options_.monitor);
  if (options_.strict) throw UserError(message);
  log_warning(message);
}

void EarlyStopping::on_fit_start(Trainer& trainer) {
  const Reason reason = reason_to_stop();
  if (reason.why.empty()) return;
  log_note(
      fmt::format("early stopping has ended this run: {}; {} to go on", reason.why, reason.remedy));
  trainer.stop();
}

void EarlyStopping::on_validation_end(Trainer& trainer,
                                      const std::map<std::string, double>& values) {
  if (!options_.strict && !best_.find(values))
    return log_warning_once(
        fmt::format("early_stopping: validation does not log '{}', which therefore never ends the "
                    "run",
                    options_.monitor));
  last_ = best_.value_in(values);
  has_last_ = true;
  waited_ = best_.improves(last_) ? 0 : waited_ + 1;
  const Reason reason = reason_to_stop();
  if (reason.why.empty()) return;
  log_note(reason.why + ": the run ends here");
  trainer.stop();
}

void EarlyStopping::on_fit_end(Trainer& trainer) {
  if (trainer.validates() && trainer.loop().finished() && !best_.has_looked())
    log_warning(unused_monitor("early_stopping", options_.monitor));
}

StateDict EarlyStopping::state_dict() const {
  StateDict state = best_.state_dict();
  state.values["waited"] = waited_;
  if (has_last_) state.values["last"] = last_;
  return state;
}

void EarlyStopping::load_state_dict(const StateDict& state) {
  best_.load_state_dict(state);
  waited_ = state.get<std::int64_t>("waited");
  has_last_ = state.values.contains("last");
  last_ = has_last_ ? state.get<double>("last") : 0.0;
}

}  // namespace halftone
