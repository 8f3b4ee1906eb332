// SPDX-License-Identifier: Apache-2.0
#include "halftone/train/early_stopping.h"

#include <fmt/format.h>

#include <limits>
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

void EarlyStopping::on_validation_end(Trainer& trainer,
                                      const std::map<std::string, double>& values) {
  waited_ = best_.improves(values) ? 0 : waited_ + 1;
  if (waited_ < options_.patience) return;
  constexpr double kNever = std::numeric_limits<double>::quiet_NaN();
  log_note(fmt::format("{} has not been better than {:.6g} for {} validations: the run ends here",
                       options_.monitor, best_.best().value_or(kNever), waited_));
  trainer.stop();
}

StateDict EarlyStopping::state_dict() const {
  StateDict state = best_.state_dict();
  state.values["waited"] = waited_;
  return state;
}

void EarlyStopping::load_state_dict(const StateDict& state) {
  best_.load_state_dict(state);
  waited_ = state.get<std::int64_t>("waited");
}

}  // namespace halftone
