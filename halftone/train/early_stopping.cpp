// SPDX-License-Identifier: Apache-2.0
#include "halftone/train/early_stopping.h"

#include <fmt/format.h>

#include <cmath>
#include <utility>

#include "halftone/core/error.h"
#include "halftone/core/log.h"
#include "halftone/train/trainer.h"

namespace halftone {

EarlyStopping::EarlyStopping(EarlyStoppingOptions options)
    : options_(std::move(options)), best_(options_.monitor, options_.mode, options_.min_delta) {
  HALFTONE_CHECK(options_.patience >= 1, "[early_stopping] expected patience >= 1, got ",
                 options_.patience);
}

/// Why the run ends here; empty: it does not.
std::string EarlyStopping::reason_to_stop() const {
  if (options_.check_finite && !std::isfinite(last_))
    return fmt::format("{} is {}, which is not finite{}", options_.monitor, last_,
                       best_.best() ? fmt::format("; the best was {:.6g}", *best_.best()) : "");
  if (waited_ < options_.patience) return "";
  if (!best_.best())
    return fmt::format("{} has not been finite for {} validations", options_.monitor, waited_);
  return fmt::format("{} has not been better than {:.6g} for {} validations", options_.monitor,
                     *best_.best(), waited_);
}

void EarlyStopping::setup(const Trainer& trainer) {
  if (trainer.validates()) return;
  const std::string message = missing_validation("early_stopping", options_.monitor);
  if (options_.strict) throw UserError(message);
  log_warning(message);
}

void EarlyStopping::on_fit_start(Trainer& trainer) {
  const std::string reason = reason_to_stop();
  if (reason.empty()) return;
  log_note(
      fmt::format("early stopping has ended this run: {}; {} to go on", reason,
                  waited_ < options_.patience ? "set check_finite to false" : "raise patience"));
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
  waited_ = best_.improves(last_) ? 0 : waited_ + 1;
  const std::string reason = reason_to_stop();
  if (reason.empty()) return;
  log_note(reason + ": the run ends here");
  trainer.stop();
}

void EarlyStopping::on_fit_end(Trainer& trainer) {
  if (trainer.validates() && trainer.loop().finished() && !best_.has_looked())
    log_warning(unused_monitor("early_stopping", options_.monitor));
}

StateDict EarlyStopping::state_dict() const {
  StateDict state = best_.state_dict();
  state.values["waited"] = waited_;
  state.values["last"] = last_;
  return state;
}

void EarlyStopping::load_state_dict(const StateDict& state) {
  best_.load_state_dict(state);
  waited_ = state.get<std::int64_t>("waited");
  last_ = state.values.contains("last") ? state.get<double>("last") : 0.0;
}

}  // namespace halftone
