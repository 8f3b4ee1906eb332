// SPDX-License-Identifier: Apache-2.0
#include "halftone/train/mixed_precision.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <utility>

#include "halftone/autocast/keep_fp32.h"
#include "halftone/core/dtype.h"
#include "halftone/core/error.h"
#include "halftone/core/log.h"
#include "halftone/nn/conv2d.h"
#include "halftone/nn/linear.h"
#include "halftone/nn/torch_layers.h"
#include "halftone/optim/adamw_layout.h"
#include "halftone/optim/clip.h"
#include "halftone/optim/optimizer_in_backward.h"
#include "halftone/system/memory.h"
#include "halftone/train/layer_precision.h"
#include "halftone/train/optimizer_state.h"

namespace halftone {
namespace {

constexpr const char* kPreviousNorm = "previous_norm";

GradScalerOptions scaler_for(const PrecisionPolicy& policy, GradScalerOptions options) {
  if (!policy.loss_scaling)
    options = {.init_scale = 1.0,
               .min_scale = 1.0,
               .max_scale = 1.0,
               .max_skips_at_floor = options.max_skips_at_floor};
  options.allow_fp16_gradients = policy.parameter == torch::kFloat16;
  return options;
}

// A module on the stack can't be part of its own modules().
template <class Visit>
void for_each_module(const torch::nn::Module& module, const Visit& visit) {
  visit(module);
  for (const auto& below : module.modules(/*include_self=*/false)) visit(*below);
}

// LibTorch's layers quantize nothing: none is left as it is in silence.
void check_quantized_layers(const torch::nn::Module& module, const PrecisionPolicy& policy) {
  bool quantizes = false;
  std::map<std::string, std::pair<std::int64_t, std::string>> foreign;  // count, ours
  for_each_module(module, [&](const torch::nn::Module& one) {
    quantizes |= dynamic_cast<const LinearImpl*>(&one) != nullptr ||
                 dynamic_cast<const Conv2dImpl*>(&one) != nullptr;
    const TorchLayer layer = torch_layer(one);
    if (layer.name.empty()) return;
    ++foreign[layer.name].first;
    foreign[layer.name].second = layer.ours;
  });
  if (!quantizes)
    throw UserError(policy.name +
                    " goes through halftone::Linear and halftone::Conv2d, and this module has "
                    "none: build it of these, or choose another precision");
  for (const auto& [name, found] : foreign)
    log_warning_once(
        fmt::format("{}: {} {} of this module stay in {}; {}", policy.name, found.first, name,
                    dtype_name(policy.compute_dtype()),
                    found.second.empty()
                        ? fmt::format("halftone has no such layer in {}", to_string(policy.compute))
                        : fmt::format("what is to multiply in {} must be {}",
                                      to_string(policy.compute), found.second)));
}

// Module::to(dtype) of the C++ frontend casts integers, masks and complex numbers as well.
void cast_floating(torch::nn::Module& module, torch::ScalarType dtype) {
  std::vector<torch::Tensor> tensors = module.parameters();
  const std::vector<torch::Tensor> buffers = module.buffers();
  tensors.insert(tensors.end(), buffers.begin(), buffers.end());
  for (torch::Tensor& tensor : tensors)
    if (tensor.is_floating_point() && tensor.scalar_type() != dtype)
      tensor.set_data(tensor.detach().to(dtype));
}

// Layers see an fp32 stream beside them, as they do beside fp32 weights under autocast. What the
// fp32 ones took is handed back on the way: the process never holds both models.
void store_in_bf16(torch::nn::Module& module) {
  constexpr std::size_t kHandBack = std::size_t{256} << 20U;
  std::size_t freed = 0;
  for (torch::Tensor& parameter : module.parameters()) {
    if (is_small_parameter(parameter.sizes()) || keeps_fp32(parameter) ||
        parameter.scalar_type() != torch::kFloat)
      continue;
    freed += parameter.nbytes();
    parameter.set_data(parameter.detach().to(torch::kBFloat16));
    if (freed < kHandBack) continue;
    release_free_memory();
    freed = 0;
  }
}

FusedOptimizer& releasing_optimizer(const Optimizers& optimizers, const GradientClip& clip) {
  HALFTONE_CHECK(clip.value == 0.0 || clip.algorithm == ClipAlgorithm::kNorm,
                 "[mixed_precision] released gradients are clipped by their norm, not by value");
  FusedOptimizer* const fused = optimizers.size() == 1 ? as_fused(*optimizers.front()) : nullptr;
  HALFTONE_CHECK(fused != nullptr && fused->traits().releases_gradients,
                 "[mixed_precision] expected one halftone::AdamW whose options have "
                 "release_gradients (MemoryPolicy::adamw() sets it), got ",
                 optimizers.size(), optimizers.size() == 1 ? " without it" : " optimizers");
  return *fused;
}

}  // namespace

void add_step(StepResult& all, const StepResult& one) {
  all.stepped = all.stepped && one.stepped;
  all.overflow.insert(all.overflow.end(), one.overflow.begin(), one.overflow.end());
  all.non_finite_shares.insert(all.non_finite_shares.end(), one.non_finite_shares.begin(),
                               one.non_finite_shares.end());
  all.grad_norm = std::hypot(all.grad_norm, one.grad_norm);
  all.skips_at_floor = std::max(all.skips_at_floor, one.skips_at_floor);
}

MixedPrecision::MixedPrecision(PrecisionPolicy policy, GradScalerOptions scaler,
                               torch::Device device, MemoryPolicy memory,
                               std::vector<std::string> layer_precision)
    : policy_(std::move(policy)),
      memory_(std::move(memory)),
      device_(device),
      layer_precision_(std::move(layer_precision)),
      scaler_(scaler_for(policy_, scaler)) {
  check_layer_precision(layer_precision_, policy_);
  if (!memory_.offload.empty() && !device_.is_cpu())
    throw UserError(fmt::format(
        "offload keeps the states of a CPU's optimizer in a file, but this run is on {}; leave it "
        "out, or train on the CPU",
        device_.str()));
}

void MixedPrecision::convert_module(torch::nn::Module& module) {
  if (policy_.quantizes()) check_quantized_layers(module, policy_);
  cast_floating(module, policy_.parameter);
  module.to(device_);
  if (memory_.bf16_weights) store_in_bf16(module);
  if (!layer_precision_.empty())
    layer_formats_ =
        halftone::layer_formats(module, layer_types(module, layer_precision_, policy_));
  scaler_.name_parameters(module);
}

ForwardContext MixedPrecision::forward_context(std::int64_t pass, std::uint64_t seed,
                                               bool fused_grads) const {
  ComputeContext context = compute_context();
  context.compute = policy_.compute;
  context.layer_formats = layer_formats_;
  context.streams = RoundingStreams(seed, static_cast<std::uint64_t>(pass));
  context.recompute_blocks = memory_.recompute_blocks;
  // Released gradients are taken from .grad by hooks, a parameter at a time.
  context.fused_grad_accumulation = fused_grads && !memory_.release_gradients;
  return {.autocast = Autocast(autocast_device(device_.type()), policy_.autocast_dtype(),
                               policy_.autocast()),
          .compute = ComputeScope(std::move(context))};
}

void MixedPrecision::backward(const torch::Tensor& loss, bool retain_graph) {
  scaled(loss).backward({}, retain_graph);
}

StepResult MixedPrecision::step(torch::optim::Optimizer& optimizer, const GradientClip& clip) {
  FusedOptimizer* const fused = as_fused(optimizer);
  const bool by_value = clip.value > 0.0 && clip.algorithm == ClipAlgorithm::kValue;
  if (fused != nullptr && !by_value) return scaler_.step(*fused, {.clip_norm = clip.value});

  scaler_.unscale_(optimizer);
  const std::vector<torch::Tensor> parameters = parameters_of(optimizer);
  const bool by_norm = clip.value > 0.0 && !by_value;
  const torch::Tensor norm =
      clip_grad_norm_(parameters, by_norm ? clip.value : std::numeric_limits<double>::infinity());
  if (by_value) clip_grad_value_(parameters, clip.value);
  StepResult result = fused != nullptr ? scaler_.step(*fused) : scaler_.step(optimizer);
  result.grad_norm = norm.item<double>();
  return result;
}

StepResult MixedPrecision::step(const Optimizers& optimizers, const GradientClip& clip) {
  StepResult all{.grad_norm = 0.0};
  for (const auto& optimizer : optimizers) {
    const StepResult one = step(*optimizer, clip);
    if (optimizers.size() == 1) return one;
    add_step(all, one);
  }
  return all;
}

StepResult MixedPrecision::backward_and_step(const torch::Tensor& loss,
                                             const Optimizers& optimizers,
                                             const GradientClip& clip) {
  FusedOptimizer& optimizer = releasing_optimizer(optimizers, clip);
  const torch::Tensor root = scaled(loss);
  ReleaseOptions options{.clip_norm = clip.value, .previous_norm = previous_norm_.value_or(0.0)};
  if (clip.value > 0.0 && (memory_.clip_mode == ClipMode::kExact || !previous_norm_))
    options.measured =
        measure_gradients(optimizer, [&] { root.backward({}, /*retain_graph=*/true); });
  const GradientStats stats = release_gradients(
      optimizer, [&] { root.backward(); }, options);
  const StepResult result = scaler_.note_step(optimizer, stats).result();
  previous_norm_.reset();
  if (memory_.clip_mode == ClipMode::kPrevious && clip.value > 0.0 && result.stepped)
    previous_norm_ = result.grad_norm;
  return result;
}

std::optional<double> MixedPrecision::loss_scale() const {
  if (!policy_.loss_scaling) return std::nullopt;
  return scaler_.get_scale();
}

std::optional<double> MixedPrecision::underflow_share() {
  const std::optional<ScaleMeasurement> measured = scaler_.last_measurement();
  if (!measured || std::exchange(measured_update_, measured->update) == measured->update)
    return std::nullopt;
  if (!measured->finite) return std::nullopt;
  return measured->flushed_share;
}

StateDict MixedPrecision::state_dict() const {
  StateDict state;
  if (policy_.loss_scaling) state = scaler_.state_dict();
  if (previous_norm_) state.values[kPreviousNorm] = *previous_norm_;
  return state;
}

void MixedPrecision::load_state_dict(const StateDict& state) {
  if (policy_.loss_scaling) scaler_.load_state_dict(state);
  previous_norm_.reset();
  if (state.values.contains(kPreviousNorm)) previous_norm_ = state.get<double>(kPreviousNorm);
}

}  // namespace halftone
