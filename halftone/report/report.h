// SPDX-License-Identifier: Apache-2.0
// The page about a run: RUN/report.html.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "halftone/run/run_history.h"

namespace halftone {

/// The text of a page about a run. The page escapes it.
struct RunDescription {
  struct Fact {
    std::string name;   ///< "precision"
    std::string value;  ///< "bf16-mixed"
  };

  /// What the run has drawn, in the order in which it is shown.
  struct Picture {
    std::string name;       ///< of its log: "samples"
    std::int64_t step = 0;  ///< after which it was drawn
    std::string png;        ///< the bytes of a PNG file
  };

  std::string name;   ///< of the run: "poems"
  std::string state;  ///< "finished", "stopped at step 120", and when that was
  std::vector<Fact> facts;
  std::string config;  ///< its config.toml
  std::vector<Picture> pictures;
};

/// One HTML document with pictures inside, which needs no script and no network: loss, learning
/// rate, gradient norm, loss scale, speed, memory and logged values over the steps, what was
/// skipped and why. `ends_torn`: the metrics end in a line that is not whole.
std::string report_page(const RunHistory& history, const RunDescription& description,
                        bool ends_torn = false);

/// Reads `metrics` (a metrics.jsonl) and writes the page to `report`, as a whole or not at all.
/// Throws UserError and SystemError.
void write_report(const std::filesystem::path& metrics, const RunDescription& description,
                  const std::filesystem::path& report);

}  // namespace halftone
