// SPDX-License-Identifier: Apache-2.0
// The format: "Trace Event Format", complete events ("ph": "X") with times in microseconds.
#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "halftone/core/error.h"
#include "halftone/diagnostics/profile/module_ranges_impl.h"
#include "halftone/diagnostics/profile/profile_text.h"

namespace halftone {
namespace {

using nlohmann::json;

class TraceWriter {
 public:
  std::string write(const StepProfile& profile) {
    events_ = {{{"ph", "M"},
                {"pid", 1},
                {"tid", 1},
                {"name", "process_name"},
                {"args", {{"name", "halftone profile, " + profile.precision}}}},
               {{"ph", "M"},
                {"pid", 1},
                {"tid", 1},
                {"name", "thread_name"},
                {"args", {{"name", "training step"}}}}};
    std::size_t number = 0;
    for (const ProfiledStep& step : profile.steps) {
      if (step.phases.empty()) continue;
      const std::int64_t length = step.phases.back().end_ns;
      add(fmt::format("step {}", ++number), "step", 0, length, json::object());
      for (const ProfiledPhase& phase : step.phases) add_phase(step, phase);
      offset_ns_ += length;
    }
    return json{{"traceEvents", std::move(events_)}, {"displayTimeUnit", "ms"}}.dump() + "\n";
  }

 private:
  struct OpenRange {
    std::string module;
    std::size_t event;
  };

  void add(const std::string& name, std::string_view category, std::int64_t begin_ns,
           std::int64_t end_ns, json args) {
    constexpr double kMicroseconds = 1e-3;
    events_.push_back({{"ph", "X"},
                       {"pid", 1},
                       {"tid", 1},
                       {"name", name},
                       {"cat", category},
                       {"ts", kMicroseconds * static_cast<double>(offset_ns_ + begin_ns)},
                       {"dur", kMicroseconds * static_cast<double>(end_ns - begin_ns)},
                       {"args", std::move(args)}});
  }

  void add_phase(const ProfiledStep& step, const ProfiledPhase& phase) {
    add(std::string(to_string(phase.phase)), to_string(phase.phase), phase.begin_ns, phase.end_ns,
        json::object());
    open_.clear();
    for (const ProfiledCall& call : step.calls) {
      if (call.begin_ns < phase.begin_ns || call.end_ns > phase.end_ns) continue;
      if (call.depth == 0) enter_modules(call);
      add(call.name, to_string(call.phase), call.begin_ns, call.end_ns,
          {{"module", call.module}, {"dtypes", call.dtypes}, {"shapes", call.shapes}});
    }
  }

  /// A module's event reaches from its first outermost call to its last, in a row.
  void enter_modules(const ProfiledCall& call) {
    const std::vector<std::string> levels = module_levels(call.module);
    std::size_t same = 0;
    while (same < open_.size() && same < levels.size() && open_[same].module == levels[same])
      ++same;
    open_.resize(same);
    for (OpenRange& range : open_) extend(range, call.end_ns);
    for (std::size_t i = same; i < levels.size(); ++i) {
      open_.push_back({levels[i], events_.size()});
      add(levels[i], "module", call.begin_ns, call.end_ns, {{"phase", to_string(call.phase)}});
    }
  }

  void extend(const OpenRange& range, std::int64_t end_ns) {
    json& event = events_[range.event];
    event["dur"] = 1e-3 * static_cast<double>(offset_ns_ + end_ns) - event["ts"].get<double>();
  }

  json events_;
  std::vector<OpenRange> open_;
  std::int64_t offset_ns_ = 0;
};

}  // namespace

std::string to_trace(const StepProfile& profile) {
  const bool has_calls = std::any_of(profile.steps.begin(), profile.steps.end(),
                                     [](const ProfiledStep& step) { return !step.calls.empty(); });
  HALFTONE_CHECK(has_calls, "[profile] expected a profile with calls: set keeps_calls");
  return TraceWriter().write(profile);
}

}  // namespace halftone
