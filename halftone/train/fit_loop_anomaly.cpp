// SPDX-License-Identifier: Apache-2.0
// The steps of FitLoop that end a run, and what is to be said of them.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "halftone/core/scoped_value.h"
#include "halftone/optim/fused_optimizer.h"
#include "halftone/train/anomaly_remedy_impl.h"
#include "halftone/train/fit_loop.h"
#include "halftone/train/optimizer_state.h"
#include "halftone/train/step_search_impl.h"

namespace halftone {
namespace {

using Kind = NonFiniteOrigin::Kind;

/// That of one of the optimizers' parameters; undefined where it has none.
torch::Tensor gradient_of(const Optimizers& optimizers, const torch::Tensor& parameter) {
  for (const auto& optimizer : optimizers) {
    const std::vector<torch::Tensor> parameters = parameters_of(*optimizer);
    const auto found =
        std::find_if(parameters.begin(), parameters.end(),
                     [&](const torch::Tensor& one) { return one.is_same(parameter); });
    if (found != parameters.end())
      return gradients_of(*optimizer)[static_cast<std::size_t>(found - parameters.begin())];
  }
  return {};
}

std::string changed_weights_note() {
  return "the search saw weights that the step had changed in part, as gradients were applied "
         "before the bad one came";
}

}  // namespace

// Why the run can't go on, or nothing.
std::optional<Anomaly> FitLoop::anomaly_in(const Update& update) const {
  if (!update.verdict.hopeless && !options_.detect_anomaly) return std::nullopt;
  Anomaly anomaly{.step = counters_.step + 1,
                  .epoch = last_step_.epoch + 1,
                  .batch = last_step_.batch,
                  .precision = precision_.policy().name,
                  .scale = update.scale};
  if (update.loss.defined()) anomaly.loss = update.loss.item<double>();
  const bool releases = precision_.memory().release_gradients;
  anomaly.weights_changed = releases && !update.result.stepped;
  if (update.verdict.hopeless) {
    anomaly.symptom = update.verdict.reason;
    return anomaly;
  }
  if (anomaly.loss && !std::isfinite(*anomaly.loss)) {
    anomaly.symptom =
        fmt::format("detect_anomaly: the loss of step {} is {}", anomaly.step, *anomaly.loss);
    return anomaly;
  }
  if (!update.result.stepped && !precision_.policy().loss_scaling) {
    const std::vector<std::string>& names = update.result.overflow;
    anomaly.symptom = fmt::format("detect_anomaly: in step {} the gradient of {} is not finite",
                                  anomaly.step, names.empty() ? "a parameter" : names[0]);
    return anomaly;
  }
  anomaly.origin = bad_weights();
  if (!anomaly.origin) return std::nullopt;
  anomaly.weights_changed = anomaly.origin->kind == Kind::kUpdate;
  anomaly.symptom = fmt::format("detect_anomaly: {} step {} weights are not finite",
                                anomaly.weights_changed ? "after" : "before", anomaly.step);
  return anomaly;
}

/// Of the step's update, if they were finite before it.
std::optional<NonFiniteOrigin> FitLoop::bad_weights() const {
  std::optional<NonFiniteOrigin> origin = find_bad_parameters(network());
  if (origin && weights_were_finite_) {
    origin->kind = Kind::kUpdate;
    origin->diagnosis.cause = NonFiniteCause::kOverflow;
  }
  return origin;
}

void FitLoop::explain(const Update& update, Anomaly& anomaly) {
  if (sharded_weights()) {  // a batch that is computed once more would need the others as well
    anomaly.note =
        "where it comes from is found in one process: resume the run without launch, with "
        "detect_anomaly";
    return;
  }
  if (!anomaly.origin) {
    StepSearch(task_, precision_, manual_.get()).explain(last_step_, anomaly);
    if (anomaly.weights_changed) anomaly.note = changed_weights_note();
    return;
  }
  if (anomaly.origin->kind == Kind::kUpdate)
    describe_update(anomaly, "after", gradient_factor(update));
  anomaly.remedy = remedy_of(anomaly, precision_.policy());
}

/// What unscales the gradients as they stand after the step: a fused optimizer leaves them as they
/// were.
double FitLoop::gradient_factor(const Update& update) const {
  const bool by_value =
      options_.clip.value > 0.0 && options_.clip.algorithm == ClipAlgorithm::kValue;
  const bool scaled = !by_value && as_fused(*optimizers_.front()) != nullptr;
  return scaled ? 1.0 / update.scale.value_or(1.0) : 1.0;
}

/// The bad parameters as they stand `when`, before or after the update, and their gradients.
void FitLoop::describe_update(Anomaly& anomaly, const char* when, double factor) const {
  NonFiniteDiagnosis& diagnosis = anomaly.origin->diagnosis;
  const auto parameters = network().named_parameters();
  std::vector<TensorFacts> all;
  for (const TensorFacts& bad : diagnosis.inputs) {
    if (bad.name == "gradient") continue;
    const torch::Tensor& parameter = parameters[bad.parameter];
    TensorFacts facts = facts_of(parameter);
    facts.parameter = bad.parameter;
    facts.name = when;
    all.push_back(std::move(facts));
    const torch::Tensor gradient = gradient_of(optimizers_, parameter);
    if (!gradient.defined() || gradient.numel() == 0) continue;
    TensorFacts slope = facts_of(gradient.to(torch::kFloat) * factor);
    slope.name = "gradient";
    slope.parameter = bad.parameter;
    all.push_back(std::move(slope));
  }
  diagnosis.inputs = std::move(all);
  diagnosis.detail = fmt::format("learning rate {:.2g}",
                                 optimizers_.front()->param_groups().front().options().get_lr());
}

Anomaly FitLoop::search_next_step(Anomaly anomaly, StepHooks& hooks) {
  const ScopedValue in_step(in_step_, true);
  const std::int64_t group = begin_step(hooks);
  anomaly.note.clear();
  if (anomaly.origin && anomaly.origin->kind == Kind::kUpdate) {
    const bool keeps_gradients = !manual_ && !precision_.memory().release_gradients;
    if (keeps_gradients) accumulate_gradients(group, hooks);
    hooks.on_before_optimizer_step();
    describe_update(anomaly, "before", 1.0 / precision_.loss_scale().value_or(1.0));
    return anomaly;
  }
  // Otherwise gradients were released: the step is one pass over its joined batches.
  task_.join_group();
  hooks.on_train_batch_start(task_.group_index());
  loss_of(0);
  StepSearch(task_, precision_, manual_.get()).explain(last_step_, anomaly);
  return anomaly;
}

}  // namespace halftone
