// SPDX-License-Identifier: Apache-2.0
#include "halftone/train/anomaly.h"

#include <fmt/format.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "halftone/core/dtype.h"

namespace halftone {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kFormat = 1;

/// JSON has no inf and no nan: they are texts.
Json number(double value) {
  if (std::isfinite(value)) return value;
  return std::isnan(value) ? "nan" : value > 0 ? "inf" : "-inf";
}

Json number(const std::optional<double>& value) { return value ? number(*value) : Json(); }

Json text_or_null(const std::string& text) { return text.empty() ? Json() : Json(text); }

Json facts_json(const TensorFacts& facts) {
  return {{"name", text_or_null(facts.name)},
          {"parameter", text_or_null(facts.parameter)},
          {"dtype", dtype_name(facts.dtype)},
          {"shape", facts.shape},
          {"max_abs", number(facts.max_abs)},
          {"non_finite", facts.non_finite},
          {"zeros", facts.zeros},
          {"first_non_finite", facts.non_finite > 0 ? Json(facts.first_non_finite) : Json()}};
}

void add_origin(Json& json, const NonFiniteOrigin& origin) {
  const Site& site = origin.site;
  const NonFiniteDiagnosis& diagnosis = origin.diagnosis;
  json["kind"] = to_string(origin.kind);
  json["cause"] = to_string(diagnosis.cause);
  json["operation"] = text_or_null(site.operation);
  json["direction"] = site.operation.empty() ? Json() : site.is_backward ? "backward" : "forward";
  json["module"] = site.module;
  json["parameters"] = site.parameters;
  json["reads_parameters"] = site.reads_parameter;
  json["within"] = text_or_null(site.within);
  json["autograd_node"] = text_or_null(site.node);
  json["forward_operation"] = text_or_null(site.forward);
  json["gradient"] = text_or_null(origin.gradient);
  json["detail"] = text_or_null(diagnosis.detail);
  if (diagnosis.cause == NonFiniteCause::kOverflow) {
    json["format"] = dtype_name(diagnosis.format);
    json["format_max"] = largest_number(diagnosis.format);
    json["largest"] = number(diagnosis.largest);
  }
  json["inputs"] = Json::array();
  for (const TensorFacts& facts : diagnosis.inputs) json["inputs"].push_back(facts_json(facts));
}

std::string where_in_step(const Anomaly& anomaly) {
  if (anomaly.micro_batch == 0 || anomaly.micro_batches == 1) return "";
  return fmt::format(", in micro-batch {} of {}", anomaly.micro_batch, anomaly.micro_batches);
}

std::string batch_of(const Anomaly& anomaly) {
  return fmt::format(", of batch {} of epoch {}", anomaly.batch, anomaly.epoch);
}

std::string replay_note(const Anomaly::Replay& replay) {
  return fmt::format("; found by computing {} step{} again from the checkpoint of step {}{}",
                     replay.steps, replay.steps == 1 ? "" : "s", replay.checkpoint,
                     replay.same_losses ? "" : ", whose losses were not the same");
}

}  // namespace

std::string to_string(const Anomaly& anomaly) {
  std::string text = anomaly.symptom;
  if (anomaly.origin) {
    text += "; " + place_of(*anomaly.origin) + where_in_step(anomaly);
    if (const std::string why = explanation_of(*anomaly.origin); !why.empty()) text += ": " + why;
    if (anomaly.origin->kind == NonFiniteOrigin::Kind::kInput) text += batch_of(anomaly);
  }
  if (!anomaly.note.empty()) text += "; " + anomaly.note;
  if (anomaly.replay) text += replay_note(*anomaly.replay);
  if (!anomaly.remedy.empty()) text += "; remedy: " + anomaly.remedy;
  return text;
}

std::string anomaly_json(const Anomaly& anomaly) {
  Json json = {{"format_version", kFormat},
               {"step", anomaly.step},
               {"epoch", anomaly.epoch},
               {"batch", anomaly.batch},
               {"micro_batch", anomaly.micro_batch > 0 ? Json(anomaly.micro_batch) : Json()},
               {"micro_batches", anomaly.micro_batches},
               {"precision", anomaly.precision},
               {"loss", number(anomaly.loss)},
               {"scale", number(anomaly.scale)},
               {"symptom", anomaly.symptom}};
  if (anomaly.origin)
    add_origin(json, *anomaly.origin);
  else
    json["kind"] = Json();
  json["note"] = text_or_null(anomaly.note);
  json["remedy"] = text_or_null(anomaly.remedy);
  json["replay"] = Json();
  if (anomaly.replay)
    json["replay"] = {{"checkpoint", anomaly.replay->checkpoint},
                      {"steps", anomaly.replay->steps},
                      {"same_losses", anomaly.replay->same_losses}};
  json["message"] = to_string(anomaly);
  return json.dump(2) + "\n";
}

}  // namespace halftone
