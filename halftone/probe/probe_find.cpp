// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <string>

#include "halftone/inspect/non_finite_cause.h"
#include "halftone/probe/probe_reader_impl.h"

namespace halftone {
namespace {

/// The words of probe.json.
std::string kind_of(const NonFiniteLabel& label) {
  if (label.is_weight) return "weights";
  if (label.origin.kind == NonFiniteOrigin::Kind::kInput) return "input";
  switch (label.origin.diagnosis.cause) {
    case NonFiniteCause::kBadData:
      return "input";
    case NonFiniteCause::kBadWeights:
      return "weights";
    case NonFiniteCause::kOverflow:
    case NonFiniteCause::kDivisionByZero:
    case NonFiniteCause::kLogOfZero:
      return to_string(label.origin.diagnosis.cause);
    default:
      return "other";
  }
}

ProbeReport::Input input_of(const TensorFacts& facts) {
  return {.dtype = probe_dtype_name(facts.dtype),
          .shape = facts.shape,
          .max_abs = facts.max_abs,
          .non_finite = facts.non_finite,
          .name = facts.parameter.empty() ? facts.name : facts.parameter};
}

/// "1 of 64 values of 'head.weight' are not finite, the first at [0, 0]"
std::string reading_reason(const std::vector<TensorFacts>& inputs) {
  for (const TensorFacts& facts : inputs) {
    if (facts.non_finite == 0) continue;
    std::int64_t count = 1;
    for (const std::int64_t size : facts.shape) count *= size;
    return fmt::format("{} of {} values of '{}' {} not finite, the first at [{}]", facts.non_finite,
                       count, facts.parameter.empty() ? facts.name : facts.parameter,
                       facts.non_finite == 1 ? "is" : "are",
                       fmt::join(facts.first_non_finite, ", "));
  }
  return "";
}

template <typename Entry>
void largest_first(std::vector<Entry>& entries, double (*size)(const Entry&)) {
  std::stable_sort(entries.begin(), entries.end(),
                   [&](const Entry& a, const Entry& b) { return size(a) > size(b); });
}

}  // namespace

ProbeReport::Find ProbeReader::find_of(const NonFiniteLabel& label) const {
  const Site& site = label.origin.site;
  ProbeReport::Find find{.operation = site.operation,
                         .is_backward = site.is_backward,
                         .kind = kind_of(label),
                         .autograd_node = site.node,
                         .forward = site.forward,
                         .module = site.module,
                         .reason = reason_of(label.origin.diagnosis)};
  if (site.reads_parameter) find.parameters = site.parameters;
  if (find.reason.empty()) find.reason = reading_reason(label.origin.diagnosis.inputs);
  for (const TensorFacts& facts : label.origin.diagnosis.inputs)
    find.inputs.push_back(input_of(facts));
  if (const auto birth = births_.find(label.order); birth != births_.end()) {
    find.step = birth->second.step;
    find.call = birth->second.ordinal;
  }
  return find;
}

void ProbeReader::write_to(ProbeReport& report) const {
  const std::lock_guard lock(mutex());
  write_to_locked(report);
}

void ProbeReader::write_to_locked(ProbeReport& report) const {
  if (judge_.verdict()) report.first_nonfinite = find_of(*judge_.verdict());
  if (judge_.excused()) {
    report.scaled_overflow = {.steps = judge_.excused_passes(),
                              .operation = judge_.excused()->origin.site.operation,
                              .module = judge_.excused()->origin.site.module};
  }
  report.census = census_.counts();
  for (const auto& [key, entry] : shadow_.entries()) {
    const auto numbers = static_cast<double>(std::max<std::int64_t>(1, entry.difference.numbers));
    if (options_.underflow)
      report.underflow.push_back(
          {.operation = key.operation,
           .is_backward = key.is_backward,
           .dtype = probe_dtype_name(key.dtype),
           .calls = entry.calls,
           .flushed_share = static_cast<double>(entry.difference.flushed) / numbers,
           .overflowed_share = static_cast<double>(entry.difference.overflowed) / numbers});
    if (options_.compare)
      report.comparisons.push_back({.operation = key.operation,
                                    .is_backward = key.is_backward,
                                    .dtype = probe_dtype_name(key.dtype),
                                    .calls = entry.calls,
                                    .relative_error = entry.difference.relative_error(),
                                    .cosine = entry.difference.cosine()});
  }
  largest_first<ProbeReport::Underflow>(report.underflow, [](const ProbeReport::Underflow& entry) {
    return entry.flushed_share + entry.overflowed_share;
  });
  largest_first<ProbeReport::Comparison>(
      report.comparisons,
      [](const ProbeReport::Comparison& entry) { return entry.relative_error; });
  report.run.not_compared = shadow_.failed();
  report.run.watched_seconds = watched_ + step_watched_;
}

}  // namespace halftone
