// SPDX-License-Identifier: Apache-2.0
#include "halftone/pretrain/inference_precision.h"

#include <fmt/format.h>

#include <utility>

#include "halftone/core/error.h"
#include "halftone/core/log.h"
#include "halftone/core/text.h"
#include "halftone/nn/packed_parameters.h"
#include "halftone/system/memory.h"

namespace halftone {
namespace {

WeightStorage storage_of(torch::ScalarType dtype) {
  if (dtype == torch::kBFloat16) return WeightStorage::kBFloat16;
  return dtype == torch::kHalf ? WeightStorage::kFloat16 : WeightStorage::kFloat32;
}

/// Whether matmuls of `policy` take weights in `weights` as they are.
bool takes(const PrecisionPolicy& policy, WeightStorage weights) {
  const WeightStorage own = storage_of(policy.parameter);
  if (weights == own) return true;
  if (own != WeightStorage::kFloat32) return false;
  if (policy.quantizes())
    return policy.compute == ComputeType::kInt8 && weights == WeightStorage::kInt8;
  if (policy.compute == ComputeType::kFloat32 || weights == WeightStorage::kInt8) return true;
  return weights == storage_of(policy.compute_dtype());
}

std::uint64_t bytes_in_fp32(const CausalLM& model) {
  return 4 * static_cast<std::uint64_t>(parameter_count(model));
}

}  // namespace

InferencePrecision inference_precision(const std::string& run_precision,
                                       const std::optional<std::string>& precision,
                                       const std::optional<std::string>& weights) {
  InferencePrecision choice;
  choice.policy = parse_precision(precision ? *precision : weights ? "32-true" : run_precision);
  choice.weights = storage_of(choice.policy.parameter);
  if (!weights) return choice;
  choice.weights = parse_weight_storage(*weights);
  if (!takes(choice.policy, choice.weights))
    throw UserError(
        fmt::format("--weights {}: precision {} holds or rounds its weights otherwise; leave out "
                    "--weights, or compute with --precision 32-true",
                    *weights, choice.policy.name));
  return choice;
}

InferenceModel::InferenceModel(CausalLM& model, const InferencePrecision& choice,
                               torch::Device device)
    : precision_(choice.policy, {}, device, {}, choice.layer_precision),
      weights_(choice.weights),
      fp32_bytes_(bytes_in_fp32(model)) {
  precision_.convert_module(*model);
  if (weights_ == storage_of(choice.policy.parameter)) {
    pack_parameters(*model);
  } else {
    ComputeContext context = compute_context();
    context.stored_weights = store_weights(*model, weights_);
    release_free_memory();
    // Weights in the dtype that autocast casts to are the operands of its matmuls.
    const bool is_cast = weights_ != WeightStorage::kInt8 && choice.policy.autocast();
    if (!is_cast) scope_.emplace(std::move(context));
  }
  bytes_ = parameter_bytes(*model);
}

std::string InferenceModel::description() const {
  return fmt::format(
      "weights in {}, {}{}; computed in {}", to_string(weights_), format_bytes(bytes_),
      weights_ == WeightStorage::kFloat32 ? ""
                                          : fmt::format(" (fp32: {})", format_bytes(fp32_bytes_)),
      precision_.policy().name);
}

void note_inference(const InferenceModel& model, const std::string& run_precision) {
  if (model.precision().policy().name == run_precision &&
      model.weights() == inference_precision(run_precision, {}, {}).weights)
    return;
  log_note(fmt::format("{} (the run: {})", model.description(), run_precision));
}

}  // namespace halftone
