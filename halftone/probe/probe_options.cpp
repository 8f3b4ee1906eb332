// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <charconv>
#include <cstdlib>
#include <string_view>

#include "halftone/core/error.h"
#include "halftone/probe/probe.h"

namespace halftone {
namespace {

std::string variable(const char* name) {
  const char* const value = std::getenv(name);
  return value == nullptr ? "" : value;
}

void switch_on(std::string_view mode, ProbeOptions& options) {
  struct Mode {
    std::string_view name;
    bool ProbeOptions::*flag;
  };
  constexpr Mode kModes[] = {{"first-nonfinite", &ProbeOptions::first_nonfinite},
                             {"census", &ProbeOptions::census},
                             {"underflow", &ProbeOptions::underflow},
                             {"compare", &ProbeOptions::compare}};
  for (const Mode& known : kModes) {
    if (known.name != mode) continue;
    options.*known.flag = true;
    return;
  }
  throw UserError(fmt::format(
      "HALFTONE_PROBE: expected first-nonfinite, census, underflow, compare, or several of them "
      "with commas between, got '{}'",
      mode));
}

std::int64_t parse_every(std::string_view text) {
  if (text == "auto") return 0;
  std::int64_t steps = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), steps);
  if (error != std::errc() || end != text.data() + text.size() || steps < 1)
    throw UserError(fmt::format(
        "HALFTONE_PROBE_EVERY: expected a number of steps, such as 100, or auto, got '{}'", text));
  return steps;
}

/// Of the processes that torchrun and its like start together, each but the first has a folder of
/// its own.
std::filesystem::path folder_of_rank(const std::filesystem::path& folder) {
  const std::string rank = variable("RANK");
  return rank.empty() || rank == "0" ? folder : folder / ("rank-" + rank);
}

}  // namespace

std::optional<ProbeOptions> probe_options_from_environment() {
  const std::string modes = variable("HALFTONE_PROBE");
  if (modes.empty()) return std::nullopt;
  ProbeOptions options;
  std::string_view rest = modes;
  while (true) {
    const std::size_t comma = rest.find(',');
    switch_on(rest.substr(0, comma), options);
    if (comma == rest.npos) break;
    rest.remove_prefix(comma + 1);
  }
  if (const std::string folder = variable("HALFTONE_PROBE_OUT"); !folder.empty())
    options.folder = folder;
  options.folder = folder_of_rank(options.folder);
  if (const std::string every = variable("HALFTONE_PROBE_EVERY"); !every.empty())
    options.every = parse_every(every);
  return options;
}

}  // namespace halftone
