// SPDX-License-Identifier: Apache-2.0
// Watches the operations of a program that knows nothing of this library: which one makes the first
// inf or nan, in which dtypes they compute, what they flush to zero, and how far they are from
// fp32. libhalftone_probe.so is the same for programs that are not to be changed: the environment
// variable HALFTONE_PROBE starts it when the program loads it or is started with it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>

#include "halftone/probe/probe_report.h"

namespace torch::nn {
class Module;
}

namespace halftone {

/// The variables of the environment hold the same: HALFTONE_PROBE the modes, as a comma list of
/// "first-nonfinite", "census", "underflow" and "compare"; HALFTONE_PROBE_OUT the folder;
/// HALFTONE_PROBE_EVERY a number of steps or "auto".
struct ProbeOptions {
  bool first_nonfinite = false;
  bool census = false;
  bool underflow = false;
  bool compare = false;
  std::filesystem::path folder = "halftone-probe";
  /// Of which steps every n-th one is watched; 1: all. Nothing: the search watches all steps, and
  /// the other modes as many as cost less than 2 % of the time. 0 ("auto"): so does the search.
  std::optional<std::int64_t> every;
  /// Names parameters, and the modules that hold them, by its paths. In a Python program it is not
  /// needed. Must outlive the probe, and its parameters must stay where they are.
  const torch::nn::Module* module = nullptr;
};

/// Nothing where HALFTONE_PROBE is not set or empty. Throws UserError for what it does not know.
std::optional<ProbeOptions> probe_options_from_environment();

/// From here on the operations of all threads are watched. Writes `folder`/probe.json and
/// probe.html as soon as the first bad operation is found, every minute, and when the process ends.
///
/// A step ends with its backward pass, what follows until autograd records again included: the
/// update. Where no backward pass comes, 20,000 operations are a step. The program computes the
/// same bits as without the probe. One probe at a time; throws c10::Error where one is running, and
/// UserError or SystemError where the folder can't be written.
void start_probe(const ProbeOptions& options);

/// Ends the watch and writes the report, which it returns. Throws c10::Error where none is running.
ProbeReport stop_probe();

}  // namespace halftone
