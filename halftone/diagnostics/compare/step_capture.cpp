// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <mutex>
#include <string_view>
#include <utility>

#include "halftone/diagnostics/compare/step_capture_impl.h"

namespace halftone {
namespace {

using torch::Tensor;

/// Moves numbers, and computes none.
bool only_moves(std::string_view operation) {
  constexpr std::array kMoves = {
      "aten::to",         "aten::_to_copy", "aten::copy_", "aten::clone", "aten::detach",
      "aten::contiguous", "aten::alias",    "aten::lift",  "aten::set_",  "aten::requires_grad_"};
  // ones_like() and its kind read a shape.
  return operation.ends_with("_like") ||
         std::find(kMoves.begin(), kMoves.end(), operation) != kMoves.end();
}

bool is_float(const Tensor& tensor) {
  return is_readable(tensor) && tensor.is_floating_point() &&
         tensor.scalar_type() != torch::kDouble;
}

bool shares_storage(const Tensor& result, const OperationCall& call) {
  for (const OperationTensors& input : call.inputs)
    for (const Tensor& tensor : input.tensors)
      if (tensor.defined() && tensor.has_storage() && tensor.is_alias_of(result)) return true;
  return false;
}

bool reads_floats(const OperationCall& call) {
  return std::any_of(call.inputs.begin(), call.inputs.end(), [](const OperationTensors& input) {
    return std::any_of(input.tensors.begin(), input.tensors.end(), is_float);
  });
}

std::vector<Tensor> results_of(const OperationCall& call) {
  std::vector<Tensor> results;
  for (const OperationTensors& output : call.outputs)
    results.insert(results.end(), output.tensors.begin(), output.tensors.end());
  return results;
}

/// Layers that quantize their inputs.
bool is_linear(std::string_view operation) {
  return is_own_operation(operation) && operation.ends_with("::linear");
}

/// The numbers of `tensor` to write to, without autograd knowing.
Tensor raw(const Tensor& tensor) { return tensor.variable_data(); }

}  // namespace

const QuantizedFormats* StepCapture::quantized_formats(const std::string& operation,
                                                       const std::string& parameter) const {
  if (noise_ == nullptr || !is_linear(operation)) return nullptr;
  const auto found = stored_->quantized.find(parameter);
  return found != stored_->quantized.end() ? &found->second : nullptr;
}

void StepCapture::on_begin(const OperationCall& call, const OpenCall& open) {
  if (call.is_backward || is_in_backward() || !is_outermost() || open.parameters.empty()) return;
  const QuantizedFormats* const formats = quantized_formats(call.name, open.parameters.front());
  if (formats == nullptr) return;
  for (const Tensor& input : call.inputs.front().tensors)
    if (is_float(input)) noise_->add_to(raw(input), formats->operand);
}

void StepCapture::on_end(const OperationCall& call, const OpenCall& open) {
  if (call.is_backward || is_in_backward() || !is_outermost()) return;
  if (only_moves(call.name) || !reads_floats(call)) return;
  const std::string name = fmt::format("{} {}", open.module, call.name);
  const std::int64_t number = calls_[name]++;
  const bool in_place = call.name.ends_with('_');
  const std::vector<Tensor> results = results_of(call);
  for (std::size_t i = 0; i < results.size(); ++i)
    if (is_float(results[i]) && (in_place || !shares_storage(results[i], call)))
      capture(open, results[i], fmt::format("{} #{}.{}", name, number, i), results.size() > 1);
}

void StepCapture::capture(const OpenCall& open, const Tensor& result, const std::string& key,
                          bool is_one_of_several) {
  CapturedTensor captured{.key = key,
                          .kind = ComparedKind::kActivation,
                          .module = open.module,
                          .operation = open.name,
                          .parameter = open.parameters.empty() ? "" : open.parameters.front()};
  if (noise_ != nullptr)
    if (const auto format = stored_->activations.find(key); format != stored_->activations.end())
      noise_->add_to(raw(result), format->second);
  if (is_one_of_several && result.grad_fn()) captured.node = result.grad_fn()->name();
  if (result.requires_grad()) watch_gradient(result, captured);
  captured.values = result.detach().clone();
  tensors_.push_back(std::move(captured));
}

void StepCapture::watch_gradient(const Tensor& result, const CapturedTensor& of) {
  CapturedTensor captured = of;
  captured.kind = ComparedKind::kActivationGradient;
  const std::weak_ptr<StepCapture> self = weak_from_this();
  result.register_hook([self, captured](const Tensor& gradient) -> Tensor {
    const std::shared_ptr<StepCapture> capture = self.lock();
    if (capture == nullptr || !gradient.defined()) return gradient;
    return capture->noisy_gradient(captured, gradient);
  });
}

Tensor StepCapture::noisy_gradient(const CapturedTensor& of, const Tensor& gradient) {
  const Unobserved scope;
  const torch::NoGradGuard no_grad;
  const std::lock_guard lock(mutex());
  Tensor seen = gradient;
  const auto add = [&](const NumberFormat& format, bool stochastic) {
    seen = seen.is_same(gradient) ? gradient.clone() : seen;
    noise_->add_to(seen, format, stochastic);
  };
  if (noise_ != nullptr) {
    const auto& formats = stored_->activation_gradients;
    if (const auto format = formats.find(of.key); format != formats.end())
      add(format->second, /*stochastic=*/false);
    const QuantizedFormats* const layer = quantized_formats(of.operation, of.parameter);
    if (layer != nullptr && layer->gradient) add(*layer->gradient, layer->gradient->is_integer());
  }
  CapturedTensor captured = of;
  captured.values = seen.detach().clone();
  tensors_.push_back(std::move(captured));
  return seen;
}

}  // namespace halftone
