// SPDX-License-Identifier: Apache-2.0
#include <nlohmann/json.hpp>
#include <string>

#include "halftone/core/dtype.h"
#include "halftone/diagnostics/profile/profile_tables.h"
#include "halftone/diagnostics/profile/profile_text.h"

namespace halftone {
namespace {

using nlohmann::ordered_json;

ordered_json json_of(const MatmulShape& shape) {
  return {{"batch", shape.batch},
          {"m", shape.m},
          {"n", shape.n},
          {"k", shape.k},
          {"dtype", dtype_name(shape.dtype)}};
}

ordered_json json_of(const OperationCost& one, const StepProfile& profile) {
  ordered_json row = {
      {"operation", one.operation}, {"module", one.module},   {"phase", to_string(one.phase)},
      {"inputs", one.inputs},       {"outputs", one.outputs}, {"calls", one.calls},
      {"self_s", one.self_s},       {"total_s", one.total_s}, {"flops", one.flops},
      {"moved_bytes", one.bytes},   {"is_cast", one.is_cast}};
  const double share = peak_share(one, profile.peaks);
  row["peak_share"] = share > 0 ? ordered_json(share) : ordered_json(nullptr);
  row["fp32_reason"] =
      one.fp32_reason.empty() ? ordered_json(nullptr) : ordered_json(one.fp32_reason);
  return row;
}

ordered_json json_of(const ModuleCost& one) {
  return {{"module", one.module},     {"depth", one.depth},         {"total_s", one.total_s},
          {"self_s", one.self_s},     {"forward_s", one.forward_s}, {"backward_s", one.backward_s},
          {"update_s", one.update_s}, {"flops", one.flops},         {"moved_bytes", one.bytes},
          {"cast_s", one.cast_s},     {"fp32_s", one.fp32_s}};
}

ordered_json json_of(const Fp32Tensors& one) {
  return {{"kind", to_string(one.kind)},
          {"module", one.module},
          {"operation", one.operation},
          {"fp32_bytes", one.bytes},
          {"remedy", one.remedy}};
}

ordered_json json_of(const ShapeUse& use) {
  ordered_json row = json_of(use.shape);
  row["module"] = use.module;
  row["operation"] = use.operation;
  row["flops"] = use.flops;
  row["eligible"] = use.remedy.empty();
  row["remedy"] = use.remedy.empty() ? ordered_json(nullptr) : ordered_json(use.remedy);
  return row;
}

template <class Rows, class... More>
ordered_json list_of(const Rows& rows, const More&... more) {
  ordered_json list = ordered_json::array();
  for (const auto& row : rows) list.push_back(json_of(row, more...));
  return list;
}

ordered_json peaks_of(const MachinePeaks& peaks) {
  ordered_json rates = ordered_json::object();
  for (const auto& [dtype, rate] : peaks.flops_per_s)
    rates[dtype == torch::kChar ? "int8" : dtype_name(dtype)] = rate;
  return {{"flops_per_s", rates}, {"memory_bytes_per_s", peaks.bytes_per_s}};
}

}  // namespace

std::string to_json(const StepProfile& profile) {
  const ordered_json document = {{"precision", profile.precision},
                                 {"memory", profile.memory},
                                 {"device", profile.device.str()},
                                 {"threads", profile.threads},
                                 {"micro_batches", profile.micro_batches},
                                 {"step_s", typical_step_s(profile)},
                                 {"steps_s", profile.step_s},
                                 {"recorded_s", profile.recorded_s},
                                 {"recording_s", profile.watching_s},
                                 {"observer_share", observer_share(profile)},
                                 {"phases",
                                  {{"forward_s", profile.forward_s},
                                   {"recompute_s", profile.recompute_s},
                                   {"backward_s", profile.backward_s},
                                   {"update_s", profile.update_s}}},
                                 {"outside_s", profile.outside_s},
                                 {"cast_s", cast_s(profile)},
                                 {"matmul_s", matmul_s(profile)},
                                 {"flops", flops_of(profile)},
                                 {"stepped", profile.stepped},
                                 {"peaks", peaks_of(profile.peaks)},
                                 {"operations", list_of(by_operation(profile), profile)},
                                 {"modules", list_of(by_module(profile, /*merges_places=*/false))},
                                 {"sites", list_of(profile.operations, profile)},
                                 {"activation_bytes", profile.activation_bytes},
                                 {"fp32_activation_bytes", profile.fp32_activation_bytes},
                                 {"fp32_tensors", list_of(profile.fp32_tensors)},
                                 {"tensor_cores", list_of(matmul_shapes(profile))}};
  return document.dump(2) + "\n";
}

}  // namespace halftone
