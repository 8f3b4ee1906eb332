// SPDX-License-Identifier: Apache-2.0
// The step that ended a run because its numbers were not finite: what is known of it, as a message
// and as RUN/anomaly.json.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>

#include "halftone/core/error.h"
#include "halftone/inspect/non_finite_finder.h"

namespace halftone {

struct Anomaly {
  std::int64_t step = 0;           // from 1
  std::int64_t epoch = 0;          // from 1
  std::int64_t batch = 0;          // its index in the epoch, from 0, as training_step() gets it
  std::int64_t micro_batch = 0;    // from 1; 0: the step as a whole
  std::int64_t micro_batches = 1;  // of the step
  std::string precision;
  std::optional<double> loss;  // of the step; nothing where none is known
  std::optional<double> scale;
  std::string symptom;                    // "the loss of step 3 is nan"
  std::optional<NonFiniteOrigin> origin;  // nothing: a second pass was finite
  std::string note;                       // what else is known, or why there is no origin
  std::string remedy;
  /// The step has changed weights that it was computed with: in part, as gradients were released,
  /// or all of them.
  bool weights_changed = false;

  /// How the step was computed again, where its weights were gone.
  struct Replay {
    std::int64_t checkpoint = 0;  // the step that it began after
    std::int64_t steps = 0;       // that were taken again
    bool same_losses = true;      // to the bit, all of those that this process had computed before
  };
  std::optional<Replay> replay;
};

/// One line: the symptom, the origin, the note and the remedy.
std::string to_string(const Anomaly& anomaly);

/// RUN/anomaly.json: docs/formats.md.
std::string anomaly_json(const Anomaly& anomaly);

/// Ends a run. what() is to_string().
class AnomalyError : public SystemError {
 public:
  explicit AnomalyError(Anomaly anomaly)
      : SystemError(to_string(anomaly)), anomaly_(std::move(anomaly)) {}
  const Anomaly& anomaly() const { return anomaly_; }

 private:
  Anomaly anomaly_;
};

}  // namespace halftone
