// SPDX-License-Identifier: Apache-2.0
#include "halftone/diagnostics/compare/compare_json.h"

#include <optional>

#include "halftone/diagnostics/compare/compare_json_impl.h"

namespace halftone {
namespace {

using nlohmann::ordered_json;

ordered_json json_or_null(const std::optional<double>& number) {
  return number ? ordered_json(*number) : ordered_json();
}

ordered_json json_of(const Judgement& judgement) {
  return {{"verdict", to_string(judgement.verdict)},
          {"reason", judgement.reason},
          {"least_scale", json_or_null(judgement.least_scale)},
          {"most_scale", json_or_null(judgement.most_scale)},
          {"keep_fp32", judgement.keep_fp32},
          {"config", judgement.config},
          {"verified", judgement.verified}};
}

ordered_json json_of(const ExponentHistogram& histogram) {
  return {{"first", histogram.first},
          {"counts", histogram.counts},
          {"zeros", histogram.zeros},
          {"non_finite", histogram.non_finite}};
}

ordered_json json_of(const StorageLoss& loss) {
  return {{"relative_error", loss.relative_error},
          {"flushed_share", loss.flushed_share},
          {"overflowed_share", loss.overflowed_share},
          {"flushed_norm", loss.flushed_norm}};
}

}  // namespace

ordered_json json_of(const TensorComparison& tensor) {
  ordered_json object = {{"name", tensor.name}, {"module", tensor.module}};
  if (tensor.kind != ComparedKind::kGradient) object["operation"] = tensor.operation;
  object.update({{"shape", tensor.shape},
                 {"dtype", tensor.dtype},
                 {"verdict", to_string(tensor.verdict)},
                 {"relative_error", tensor.relative_error},
                 {"tolerance", tensor.tolerance},
                 {"cosine", tensor.cosine},
                 {"largest_ulp", tensor.largest_ulp},
                 {"flushed_share", tensor.flushed_share},
                 {"overflowed_share", tensor.overflowed_share},
                 {"flush_if_stored_share", tensor.flush_if_stored_share},
                 {"overflow_if_stored_share", tensor.overflow_if_stored_share},
                 {"max_abs", tensor.max_abs},
                 {"min_abs", tensor.min_abs},
                 {"exponents", json_of(tensor.exponents)}});
  object["what_if"] = ordered_json::object();
  for (const WhatIf& what_if : tensor.what_if)
    object["what_if"][what_if.format] = json_of(what_if.loss);
  return object;
}

ordered_json json_of(const Comparison& comparison) {
  ordered_json document = {{"precision", comparison.precision},
                           {"against", comparison.against},
                           {"format", comparison.format},
                           {"loss_scale", comparison.loss_scale},
                           {"loss", comparison.loss},
                           {"reference_loss", comparison.reference_loss},
                           {"loss_tolerance", comparison.loss_tolerance},
                           {"judgement", json_of(comparison.judgement)},
                           {"gradients", ordered_json::array()},
                           {"activations", ordered_json::array()},
                           {"activation_gradients", ordered_json::array()}};
  for (const TensorComparison& tensor : comparison.tensors)
    document[std::string(to_string(tensor.kind)) + "s"].push_back(json_of(tensor));
  return document;
}

std::string json_text(const ordered_json& document) {
  return document.dump(-1, ' ', false, ordered_json::error_handler_t::replace);
}

std::string to_json(const Comparison& comparison) { return json_text(json_of(comparison)); }

}  // namespace halftone
