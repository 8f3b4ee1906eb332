// SPDX-License-Identifier: Apache-2.0
// Which weights of a run a path names.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "halftone/run/checkpoint.h"

namespace halftone {

/// A checkpoint, and the run whose configuration and tokenizer it has.
struct RunWeights {
  std::filesystem::path run;
  std::filesystem::path checkpoint;  ///< its folder; empty: the newest whole one of the run

  /// For messages: the path that was given.
  std::string source() const { return (checkpoint.empty() ? run : checkpoint).string(); }
  /// The model and the trainer's values. Throws UserError where no such checkpoint is whole.
  Checkpoint load() const;
};

/// `where` is a run directory (its newest whole checkpoint), RUN/best (the best one), or
/// RUN/checkpoints/step-00000100. Nothing for another folder. Throws UserError for a RUN/best that
/// is not there.
std::optional<RunWeights> find_run_weights(const std::filesystem::path& where);

}  // namespace halftone
