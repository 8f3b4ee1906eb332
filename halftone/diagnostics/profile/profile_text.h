// SPDX-License-Identifier: Apache-2.0
// A profile for people, for programs, and for Perfetto.
#pragma once

#include <cstddef>
#include <string>

#include "halftone/diagnostics/profile/step_profile.h"

namespace halftone {

struct ProfileTextOptions {
  std::size_t rows = 25;  // of the table of operations, at most; the others have fewer
  bool all = false;       // every row, and each place of a list of modules by itself
};

/// Tables of 100 columns, the worst first.
std::string to_text(const StepProfile& profile, const ProfileTextOptions& options = {});

/// One JSON document; docs/formats.md has its keys.
std::string to_json(const StepProfile& profile);

/// The calls of the recorded steps as Chrome's trace events, in JSON, which ui.perfetto.dev opens:
/// steps, phases, modules and operations, each inside the one that it belongs to, with dtypes and
/// shapes. REQUIRES a profile with calls (ProfileOptions::keeps_calls).
std::string to_trace(const StepProfile& profile);

}  // namespace halftone
