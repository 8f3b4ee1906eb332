// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <deque>
#include <utility>

#include "halftone/core/error.h"
#include "halftone/core/stopwatch.h"
#include "halftone/kernels/optimizer/split_master.h"
#include "halftone/optim/arrival_hook_impl.h"
#include "halftone/precision/module_pattern_impl.h"
#include "halftone/train/layer_sampler_impl.h"

namespace halftone {
namespace {

using torch::Tensor;

constexpr const char* kLayerStatistics = "layer statistics";

/// Whether one of `patterns` is found in a parameter's name; always without any.
bool is_found(const std::deque<ModulePattern>& patterns, const std::string& name) {
  return patterns.empty() ||
         std::any_of(patterns.begin(), patterns.end(), [&](const ModulePattern& pattern) {
           return pattern.matches({.path = name, .type = {}});
         });
}

/// Known from the hooks of others.
struct ReadyHook : ArrivalHook {
  using ArrivalHook::ArrivalHook;
};

bool shares_memory(const Tensor& a, const Tensor& b) {
  return a.is_same(b) || (a.numel() > 0 && a.numel() == b.numel() && a.device() == b.device() &&
                          a.const_data_ptr() == b.const_data_ptr());
}

bool is_among(const Tensor& variable, const std::vector<Tensor>& tensors) {
  return std::any_of(tensors.begin(), tensors.end(),
                     [&](const Tensor& other) { return other.is_same(variable); });
}

void note_fused(WatchedParameter& watched, const FusedOptimizer& fused) {
  for (std::size_t i = 0; i < fused.arena().size(); ++i) {
    if (!is_among(watched.variable, fused.arena().variables(i))) continue;
    const OptimizerTraits traits = fused.traits();
    const bool is_bf16 = watched.variable.scalar_type() == torch::kBFloat16;
    watched.fused = &fused;
    watched.index = i;
    watched.rounds_stochastically =
        is_bf16 && traits.stochastic_rounding && traits.master != MasterWeights::kSplit16;
    return;
  }
}

bool find_optimizer(WatchedParameter& watched, const std::vector<OptimizerSetup>& optimizers) {
  for (const OptimizerSetup& setup : optimizers) {
    const auto& groups = setup.optimizer->param_groups();
    for (std::size_t g = 0; g < groups.size(); ++g) {
      if (!is_among(watched.variable, groups[g].params())) continue;
      watched.optimizer = setup.optimizer;
      watched.group = g;
      if (const FusedOptimizer* const fused = as_fused(std::as_const(*setup.optimizer)))
        note_fused(watched, *fused);
      return true;
    }
  }
  return false;
}

/// The gradient that the optimizer would take in now; undefined where there is none.
Tensor gradient_of(const WatchedParameter& watched) {
  if (watched.fused != nullptr && !watched.fused->arena().has_gradient(watched.index)) return {};
  const Tensor& gradient = watched.variable.grad();
  if (!gradient.defined()) return {};
  return gradient.layout() == torch::kStrided ? gradient.detach() : gradient.detach().to_dense();
}

/// Gives the parameters of each fused optimizer the lower bits that it keeps beside them.
void find_masters(std::vector<WatchedParameter>& all) {
  std::map<const FusedOptimizer*, StateDict> states;
  for (WatchedParameter& watched : all) {
    if (watched.fused == nullptr) continue;
    const OptimizerTraits traits = watched.fused->traits();
    if (traits.shards_states && traits.master != MasterWeights::kNone)
      throw UserError(
          "layer statistics: what an update changes stands in master weights, of which each "
          "process keeps a part; choose shard none, or watch in one process");
    if (!states.contains(watched.fused)) states[watched.fused] = watched.fused->state_dict();
    const auto& tensors = states[watched.fused].tensors;
    const auto found =
        tensors.find(watched.fused->parameter_names()[watched.index] + ".master_low");
    if (found != tensors.end()) watched.master = found->second;
  }
}

/// The weight in all of its bits.
Tensor value_of(const Tensor& weight, const Tensor& master) {
  return master.defined() ? joined_master({weight, master}) : weight;
}

}  // namespace

double WatchedParameter::learning_rate() const {
  return optimizer->param_groups().at(group).options().get_lr();
}

std::vector<WatchedParameter> watched_parameters(const torch::nn::Module& network,
                                                 const std::vector<OptimizerSetup>& optimizers,
                                                 const std::vector<std::string>& patterns) {
  std::deque<ModulePattern> wanted;
  for (const std::string& pattern : patterns) wanted.emplace_back(kLayerStatistics, pattern);
  std::vector<WatchedParameter> all;
  for (const auto& item : network.named_parameters()) {
    const bool is_tied = std::any_of(all.begin(), all.end(), [&](const WatchedParameter& other) {
      return shares_memory(other.variable, item.value());
    });
    if (is_tied || !item.value().is_floating_point() || !is_found(wanted, item.key())) continue;
    WatchedParameter watched{.name = item.key(), .variable = item.value()};
    if (find_optimizer(watched, optimizers)) all.push_back(std::move(watched));
  }
  find_masters(all);
  return all;
}

void check_watch_patterns(const std::vector<std::string>& patterns) {
  for (const std::string& pattern : patterns)
    const ModulePattern checked(kLayerStatistics, pattern);
}

LayerSampler::LayerSampler(const std::vector<WatchedParameter>& parameters,
                           torch::ScalarType compute)
    : parameters_(parameters), floor_(format_floor(compute)) {}

LayerSampler::~LayerSampler() { end_backward(); }

void LayerSampler::begin() {
  const torch::NoGradGuard no_grad;
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    const WatchedParameter& watched = parameters_[i];
    if (watched.fused != nullptr && watched.fused->traits().releases_gradients) {
      watch_backward(i);
    } else if (const Tensor gradient = gradient_of(watched); gradient.defined()) {
      keep(i, gradient);
    }
  }
}

void LayerSampler::keep(std::size_t index, const Tensor& gradient) {
  const WatchedParameter& watched = parameters_[index];
  measured_[index] = {.gradient = gradient_summary(gradient, floor_),
                      .update = {},
                      .stored = gradient.scalar_type()};
  if (watched.learning_rate() == 0.0) return;
  // A fused optimizer leaves gradients as they are; others get them unscaled in place, and small
  // ones vanish.
  Kept kept{.gradient = watched.fused != nullptr ? gradient : gradient.clone(),
            .weight = watched.variable.detach().clone(),
            .master = {}};
  if (watched.master.defined()) kept.master = watched.master.clone();
  kept_[index] = std::move(kept);
}

void LayerSampler::settle(std::size_t index) {
  const auto found = kept_.find(index);
  if (found == kept_.end()) return;
  const WatchedParameter& watched = parameters_[index];
  const Kept& kept = found->second;
  measured_[index].update =
      update_summary(value_of(kept.weight, kept.master),
                     value_of(watched.variable.detach(), watched.master), kept.gradient);
  kept_.erase(found);
}

// A slot of several variables is updated with the sum of their gradients, which no hook sees.
void LayerSampler::watch_backward(std::size_t index) {
  const WatchedParameter& watched = parameters_[index];
  if (!watched.variable.requires_grad() ||
      watched.fused->arena().variables(watched.index).size() > 1)
    return;
  ArrivalHook::Hook& hook = arrival_hook_of(watched.variable);
  hook = std::make_unique<ReadyHook>(std::move(hook), [this, index] { on_ready(index); });
  hooked_.push_back(index);
}

void LayerSampler::end_backward() {
  for (const std::size_t index : std::exchange(hooked_, {})) {
    ArrivalHook::Hook& hook = arrival_hook_of(parameters_[index].variable);
    if (auto* const own = dynamic_cast<ReadyHook*>(hook.get())) hook = own->take_before();
  }
}

// The parameter before this one has been updated meanwhile, or its gradient only measured, in a
// pass of its own for exact clipping: then it comes here again, and what was measured is replaced.
void LayerSampler::on_ready(std::size_t index) {
  const torch::NoGradGuard no_grad;
  const Stopwatch watch;
  settle_pending();
  if (const Tensor gradient = gradient_of(parameters_[index]); gradient.defined()) {
    keep(index, gradient);
    pending_ = index;
  }
  seconds_in_backward_ += watch.seconds();
}

void LayerSampler::settle_pending() {
  if (const auto index = std::exchange(pending_, std::nullopt)) settle(*index);
}

std::vector<LayerSample> LayerSampler::finish() {
  const torch::NoGradGuard no_grad;
  end_backward();
  pending_.reset();
  while (!kept_.empty()) settle(kept_.begin()->first);
  std::vector<LayerSample> samples;
  for (const auto& [index, measured] : measured_) {
    const WatchedParameter& watched = parameters_[index];
    LayerSample sample{
        .name = watched.name,
        .elements = watched.variable.numel(),
        .weight = watched.master.defined() ? torch::kFloat : watched.variable.scalar_type(),
        .gradient = measured.stored,
        .rounds_stochastically = watched.rounds_stochastically,
        .gradients = gradient_summary_of(measured.gradient),
        .update = {}};
    if (measured.update.defined()) sample.update = update_summary_of(measured.update);
    samples.push_back(std::move(sample));
  }
  return samples;
}

}  // namespace halftone
