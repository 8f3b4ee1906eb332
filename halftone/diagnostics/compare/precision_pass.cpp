// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstddef>
#include <iterator>
#include <memory>
#include <optional>

#include "halftone/autocast/keep_fp32.h"
#include "halftone/diagnostics/compare/network_guard_impl.h"
#include "halftone/diagnostics/compare/precision_pass_impl.h"
#include "halftone/inspect/parameter_gradients_impl.h"
#include "halftone/precision/kept_modules.h"
#include "halftone/train/layer_precision.h"
#include "halftone/train/mixed_precision.h"

namespace halftone {
namespace {

using torch::Tensor;

std::vector<std::string> kept_parameters(const torch::nn::Module& network) {
  std::vector<std::string> kept;
  for (const auto& item : network.named_parameters())
    if (keeps_fp32(item.value())) kept.push_back(item.key());
  return kept;
}

void add_gradients(const torch::nn::Module& network, const Tensor& loss,
                   std::vector<CapturedTensor>& tensors) {
  const std::vector<Tensor> gradients = parameter_gradients(network, loss);
  const std::vector<std::string> names = network.named_parameters().keys();
  for (std::size_t i = 0; i < names.size(); ++i)
    if (gradients[i].defined())
      tensors.push_back({.key = names[i],
                         .kind = ComparedKind::kGradient,
                         .module = owner_of(names[i]),
                         .values = gradients[i].detach().clone()});
}

PrecisionPass captured_pass(const TrainingStep& step, const PassOptions& options,
                            const MixedPrecision& precision, const StoredFormats* stored,
                            RoundingNoise* noise) {
  PrecisionPass pass{.scale = options.scale, .kept = kept_parameters(*step.network)};
  const auto capture = std::make_shared<StepCapture>(*step.network, stored, noise);
  std::vector<CapturedTensor> gradients;
  {
    const Observation observation(capture);
    const Tensor loss =
        options.draw > 0 ? step.redrawn_loss(precision, options.draw) : step.loss(precision);
    pass.loss = loss.item<double>();
    const Tensor scaled = options.scale == 1 ? loss : loss * options.scale;
    add_gradients(*step.network, scaled, gradients);
  }
  pass.tensors = capture->take();
  std::move(gradients.begin(), gradients.end(), std::back_inserter(pass.tensors));
  return pass;
}

}  // namespace

std::map<TensorKey, const CapturedTensor*> PrecisionPass::by_key() const {
  std::map<TensorKey, const CapturedTensor*> index;
  for (const CapturedTensor& tensor : tensors) index[{tensor.kind, tensor.key}] = &tensor;
  return index;
}

PrecisionPass compute_pass(const TrainingStep& step, const PassOptions& options) {
  const NetworkGuard guard(*step.network);
  const KeptModules kept(*step.network, options.keep_fp32, /*is_logged=*/false);
  MixedPrecision precision(options.policy, {}, options.device, {}, options.layer_precision);
  precision.convert_module(*step.network);
  return captured_pass(step, options, precision, nullptr, nullptr);
}

namespace {

std::optional<QuantizedFormats> quantized_formats(ComputeType type, bool with_random_rounding) {
  if (!is_quantized(type)) return std::nullopt;
  if (type != ComputeType::kInt8)
    return QuantizedFormats{number_format("fp8-e4m3"), number_format("fp8-e5m2")};
  QuantizedFormats formats{number_format("int8"), std::nullopt};
  if (with_random_rounding) formats.gradient = formats.operand;
  return formats;
}

/// Of what the judged pass made.
StoredFormats stored_formats(const PrecisionPass& judged) {
  StoredFormats stored;
  for (const CapturedTensor& tensor : judged.tensors) {
    const auto format = number_format_of(tensor.values.scalar_type());
    if (!format || format->name == "fp32") continue;
    if (tensor.kind == ComparedKind::kActivation) stored.activations.emplace(tensor.key, *format);
    if (tensor.kind == ComparedKind::kActivationGradient)
      stored.activation_gradients.emplace(tensor.key, *format);
  }
  return stored;
}

}  // namespace

NoisePlan noise_plan(torch::nn::Module& network, const PrecisionPass& judged,
                     const PassOptions& options, bool with_random_rounding) {
  const PrecisionPolicy& policy = options.policy;
  const auto own = options.layer_precision.empty()
                       ? std::map<std::string, ComputeType>()
                       : layer_types(network, options.layer_precision, policy);
  NoisePlan plan{.stored = stored_formats(judged)};
  for (const auto& item : network.named_parameters()) {
    const Tensor& weight = item.value();
    // Mixed precisions round what they multiply by.
    if (!weight.is_floating_point() || (policy.is_mixed() && weight.dim() < 2)) continue;
    if (std::find(judged.kept.begin(), judged.kept.end(), item.key()) != judged.kept.end())
      continue;
    const auto layer = own.find(owner_of(item.key()));
    const ComputeType type = layer != own.end() ? layer->second : policy.compute;
    if (type == ComputeType::kFloat32) continue;
    const auto quantized = quantized_formats(type, with_random_rounding);
    if (quantized) plan.stored.quantized.emplace(item.key(), *quantized);
    plan.parameters.emplace(
        item.key(), quantized ? quantized->operand : number_format_of(tensor_dtype(type)).value());
  }
  return plan;
}

PrecisionPass compute_noisy_pass(const TrainingStep& step, const PassOptions& options,
                                 const NoisePlan& plan, RoundingNoise& noise) {
  const NetworkGuard guard(*step.network);
  MixedPrecision precision(options.policy, {}, options.device);
  precision.convert_module(*step.network);
  const auto parameters = step.network->named_parameters();
  for (const auto& [name, format] : plan.parameters)
    noise.add_to(parameters[name].variable_data(), format);
  return captured_pass(step, options, precision, &plan.stored, &noise);
}

}  // namespace halftone
