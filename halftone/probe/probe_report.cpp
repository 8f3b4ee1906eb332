// SPDX-License-Identifier: Apache-2.0
#include "halftone/probe/probe_report.h"

#include <cmath>
#include <nlohmann/json.hpp>

namespace halftone {
namespace {

using Json = nlohmann::ordered_json;

const char* direction(bool is_backward) { return is_backward ? "backward" : "forward"; }

Json text_or_null(const std::string& text) { return text.empty() ? Json() : Json(text); }

/// JSON has no inf.
Json number_or_null(double number) { return std::isfinite(number) ? Json(number) : Json(); }

Json json_of(const ProbeReport::Find& find) {
  Json inputs = Json::array();
  for (const ProbeReport::Input& input : find.inputs)
    inputs.push_back({{"dtype", input.dtype},
                      {"shape", input.shape},
                      {"max_abs", number_or_null(input.max_abs)},
                      {"non_finite", input.non_finite},
                      {"name", text_or_null(input.name)}});
  return {{"operation", find.operation},
          {"direction", direction(find.is_backward)},
          {"kind", find.kind},
          {"step", find.step},
          {"call", find.call},
          {"autograd_node", text_or_null(find.autograd_node)},
          {"forward", text_or_null(find.forward)},
          {"module", text_or_null(find.module)},
          {"parameters", find.parameters},
          {"reason", text_or_null(find.reason)},
          {"inputs", std::move(inputs)}};
}

Json json_of(const ProbeReport::Underflow& entry) {
  return {{"operation", entry.operation},
          {"direction", direction(entry.is_backward)},
          {"dtype", entry.dtype},
          {"calls", entry.calls},
          {"flushed_share", entry.flushed_share},
          {"overflowed_share", entry.overflowed_share}};
}

Json json_of(const ProbeReport::Comparison& entry) {
  return {{"operation", entry.operation},
          {"direction", direction(entry.is_backward)},
          {"dtype", entry.dtype},
          {"calls", entry.calls},
          {"relative_error", number_or_null(entry.relative_error)},
          {"cosine", number_or_null(entry.cosine)}};
}

template <typename Entry>
Json json_of(const std::vector<Entry>& entries) {
  Json list = Json::array();
  for (const Entry& entry : entries) list.push_back(json_of(entry));
  return list;
}

Json json_of(const ProbeReport::Run& run) {
  return {{"program", run.program},
          {"libtorch", run.libtorch},
          {"modes", run.modes},
          {"steps", run.steps},
          {"searched_steps", run.searched_steps},
          {"sampled_steps", run.sampled_steps},
          {"seconds", run.seconds},
          {"watched_seconds", run.watched_seconds},
          {"not_compared", run.not_compared}};
}

}  // namespace

std::string verdict_of(const ProbeReport::Find& find) {
  if (find.kind == "input") return "reads bad data";
  if (find.kind == "weights") return "reads bad weights";
  const bool says_nothing = find.kind == "other" && !find.reason.empty();
  return "is the first bad operation: " + (says_nothing ? find.reason : find.kind);
}

std::string probe_json(const ProbeReport& report) {
  Json document;
  document["first_nonfinite"] = report.first_nonfinite ? json_of(*report.first_nonfinite) : Json();
  document["census"] = Json::object();
  for (const auto& [operation, dtypes] : report.census) document["census"][operation] = dtypes;
  document["underflow"] = json_of(report.underflow);
  document["compare"] = json_of(report.comparisons);
  document["scaled_overflow"] = {{"steps", report.scaled_overflow.steps},
                                 {"operation", text_or_null(report.scaled_overflow.operation)},
                                 {"module", text_or_null(report.scaled_overflow.module)}};
  document["run"] = json_of(report.run);
  // A program's name need not be UTF-8.
  return document.dump(1, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace halftone
