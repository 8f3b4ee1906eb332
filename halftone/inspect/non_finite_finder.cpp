// SPDX-License-Identifier: Apache-2.0
#include "halftone/inspect/non_finite_finder.h"

#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "halftone/core/error.h"
#include "halftone/inspect/finite_scan_impl.h"
#include "halftone/inspect/non_finite_watch_impl.h"
#include "halftone/inspect/operation_observer_impl.h"
#include "halftone/inspect/parameter_gradients_impl.h"

namespace halftone {
namespace {

using Kind = NonFiniteOrigin::Kind;

std::optional<NonFiniteLabel> unobserved_label(const NonFiniteWatch& watch,
                                               const torch::Tensor& tensor) {
  const Unobserved scope;
  return watch.label_of(tensor);
}

// The first origin among the gradients', with the name of the first parameter that shows it.
std::optional<NonFiniteOrigin> first_of(const NonFiniteWatch& watch,
                                        const std::vector<std::string>& names,
                                        const std::vector<torch::Tensor>& gradients) {
  std::optional<NonFiniteLabel> first;
  for (std::size_t i = 0; i < gradients.size(); ++i) {
    std::optional<NonFiniteLabel> label = watch.label_of(gradients[i]);
    if (!label || (first && first->order <= label->order)) continue;
    first = std::move(label);
    first->origin.gradient = names[i];
  }
  return first ? std::optional(first->origin) : std::nullopt;
}

}  // namespace

std::optional<NonFiniteOrigin> find_bad_parameters(const torch::nn::Module& module) {
  constexpr std::size_t kMostFacts = 8;
  NonFiniteOrigin origin{.kind = Kind::kParameter,
                         .diagnosis = {.cause = NonFiniteCause::kBadWeights}};
  for (const auto& item : module.named_parameters()) {
    const torch::Tensor values = item.value().detach();
    if (!is_readable(values) || !has_non_finite(values)) continue;
    std::vector<TensorFacts>& facts = origin.diagnosis.inputs;
    if (origin.site.parameters.empty()) {
      origin.site.module = owner_of(item.key());
      origin.diagnosis.format = item.value().scalar_type();
    }
    origin.site.parameters.push_back(item.key());
    if (facts.size() == kMostFacts) continue;
    facts.push_back(facts_of(item.value()));
    facts.back().parameter = item.key();
  }
  return origin.site.parameters.empty() ? std::nullopt : std::optional(origin);
}

std::optional<NonFiniteOrigin> find_first_non_finite(const torch::nn::Module& module,
                                                     const std::function<torch::Tensor()>& loss) {
  static std::mutex one_at_a_time;
  const std::lock_guard lock(one_at_a_time);
  const torch::AutoGradMode with_grad(true);
  if (auto origin = find_bad_parameters(module)) return origin;
  const auto watch = std::make_shared<NonFiniteWatch>(module);
  std::vector<torch::Tensor> gradients;
  {
    const Observation observation(watch);
    const torch::Tensor result = loss();
    HALFTONE_CHECK(result.defined() && result.numel() == 1,
                   "[find_first_non_finite] expected the function to return the loss, one element");
    if (const auto label = unobserved_label(*watch, result)) return label->origin;
    gradients = parameter_gradients(module, result.reshape({}));
  }
  return first_of(*watch, module.named_parameters().keys(), gradients);
}

}  // namespace halftone
