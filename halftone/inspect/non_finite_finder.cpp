// SPDX-License-Identifier: Apache-2.0
#include "halftone/inspect/non_finite_finder.h"

#include <fmt/format.h>
#include <torch/csrc/autograd/autograd.h>

#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "halftone/core/error.h"
#include "halftone/inspect/non_finite_watch_impl.h"
#include "halftone/inspect/operation_observer_impl.h"

namespace halftone {
namespace {

using Kind = NonFiniteOrigin::Kind;

std::optional<NonFiniteOrigin> bad_parameter(const torch::nn::Module& module) {
  for (const auto& item : module.named_parameters())
    if (!item.value().isfinite().all().item<bool>())
      return NonFiniteOrigin{.kind = Kind::kParameter, .site = {.parameters = {item.key()}}};
  return std::nullopt;
}

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

std::optional<NonFiniteOrigin> find_first_non_finite(const torch::nn::Module& module,
                                                     const std::function<torch::Tensor()>& loss) {
  static std::mutex one_at_a_time;
  const std::lock_guard lock(one_at_a_time);
  const torch::AutoGradMode with_grad(true);
  if (auto origin = bad_parameter(module)) return origin;
  std::vector<std::string> names;
  std::vector<torch::Tensor> parameters;
  for (const auto& item : module.named_parameters()) {
    if (!item.value().requires_grad()) continue;
    names.push_back(item.key());
    parameters.push_back(item.value());
  }
  const auto watch = std::make_shared<NonFiniteWatch>(module);
  std::vector<torch::Tensor> gradients;
  {
    const Observation observation(watch);
    const torch::Tensor result = loss();
    HALFTONE_CHECK(result.defined() && result.numel() == 1,
                   "[find_first_non_finite] expected the function to return the loss, one element");
    if (const auto label = unobserved_label(*watch, result)) return label->origin;
    gradients = torch::autograd::grad({result.reshape({})}, parameters, {}, /*retain_graph=*/{},
                                      /*create_graph=*/false, /*allow_unused=*/true);
  }
  return first_of(*watch, names, gradients);
}

std::string to_string(const NonFiniteOrigin& origin) {
  if (origin.kind == Kind::kParameter)
    return fmt::format("the parameter '{}' is not finite itself", origin.site.parameters.at(0));
  const std::string where = to_string(origin.site);
  if (origin.kind == Kind::kInput)
    return fmt::format("{} reads a value that is not finite and that no operation made", where);
  if (origin.kind == Kind::kForward)
    return fmt::format("{} makes the first non-finite value of the forward pass{}", where,
                       origin.gradient.empty()
                           ? ""
                           : fmt::format("; it reaches the gradient of '{}'", origin.gradient));
  return fmt::format(
      "{} makes the first non-finite gradient{}", where,
      origin.gradient.empty() ? "" : fmt::format("; it reaches that of '{}'", origin.gradient));
}

}  // namespace halftone
