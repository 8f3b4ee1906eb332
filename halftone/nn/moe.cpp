// SPDX-License-Identifier: Apache-2.0
#include "halftone/nn/moe.h"

#include <ATen/autocast_mode.h>
#include <ATen/ops/argsort.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/topk.h>
#include <ATen/ops/zeros.h>

#include <cmath>
#include <tuple>
#include <vector>

#include "halftone/autocast/autocast.h"
#include "halftone/autocast/keep_fp32.h"
#include "halftone/core/module_scope.h"
#include "halftone/nn/new_parameter.h"

namespace halftone {

using torch::Tensor;

namespace {

/// How often each of `classes` numbers comes in the rows of `ids` (..., n): (..., classes). A GPU
/// makes the host wait for one_hot() and bincount().
Tensor counted(const Tensor& ids, std::int64_t classes) {
  std::vector<std::int64_t> shape = ids.sizes().vec();
  shape.back() = classes;
  return at::zeros(shape, ids.options()).scatter_add_(-1, ids, at::ones_like(ids));
}

/// The rows of each expert where nothing is known of them: the busiest has half as many again as
/// its share.
std::vector<std::int64_t> expected_counts(std::int64_t rows, std::int64_t experts) {
  std::vector<std::int64_t> counts;
  std::int64_t left = rows;
  for (std::int64_t e = 0; e < experts; ++e) {
    const double place =
        experts == 1 ? 0.5 : static_cast<double>(e) / static_cast<double>(experts - 1);
    const double share = (1.5 - place) / static_cast<double>(experts);
    const auto count = static_cast<std::int64_t>(share * static_cast<double>(rows));
    counts.push_back(e + 1 == experts ? left : count);
    left -= counts.back();
  }
  return counts;
}

/// The rows of each expert; waits for the device. Without data (meta), what is to be expected.
std::vector<std::int64_t> counts_on_host(const Tensor& experts, std::int64_t classes) {
  if (experts.is_meta()) return expected_counts(experts.numel(), classes);
  const Tensor host = counted(experts, classes).to(torch::kCPU);
  const auto* count = host.const_data_ptr<std::int64_t>();
  return {count, count + classes};
}

}  // namespace

MoeGateImpl::MoeGateImpl(const MoeOptions& options) : options_(options) {
  const double bound = 1.0 / std::sqrt(static_cast<double>(options.dim));
  weight = register_parameter(
      "weight", new_parameter({options.n_routed_experts, options.dim}).uniform_(-bound, bound));
}

/// scores (B, T, E), chosen (B T, k): 1 for each sequence, or k for each token, where all experts
/// are chosen equally often.
Tensor MoeGateImpl::imbalance(const Tensor& scores, const Tensor& chosen) const {
  const std::int64_t experts = options_.n_routed_experts;
  const bool by_sequence = options_.balance == LoadBalance::kSequences;
  const Tensor groups = by_sequence ? chosen.view({scores.size(0), -1}) : chosen.view({1, -1});
  const Tensor of_groups = by_sequence ? scores : scores.flatten(0, 1).unsqueeze(0);
  const Tensor counts = counted(groups, experts).to(torch::kFloat);  // (groups, E)
  const std::int64_t tokens = of_groups.size(1) * (by_sequence ? options_.num_experts_per_tok : 1);
  const double uniform = static_cast<double>(tokens) / static_cast<double>(experts);
  return (counts / uniform * of_groups.mean(1)).sum(1).mean();
}

Routing MoeGateImpl::forward(const Tensor& x) {
  const ModuleScope scope(*this);
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  const std::int64_t chosen = options_.num_experts_per_tok;
  const Tensor scores =
      at::softmax(at::linear(x.to(torch::kFloat), weight.to(torch::kFloat)), -1);  // (B, T, E)
  Routing routing;
  std::tie(routing.weights, routing.experts) =
      at::topk(scores.flatten(0, 1), chosen, -1, /*largest=*/true, /*sorted=*/false);
  if (chosen > 1 || options_.normalises_single_expert)
    routing.weights = routing.weights / (routing.weights.sum(-1, /*keepdim=*/true) + 1e-20);
  if (is_training() && options_.aux_loss_alpha > 0.0) {
    routing.aux_loss = imbalance(scores, routing.experts) * options_.aux_loss_alpha;
  } else {
    routing.aux_loss = at::zeros({}, scores.options());
  }
  return routing;
}

MoeFeedForwardImpl::MoeFeedForwardImpl(const MoeOptions& options) : options_(options) {
  const auto expert = [&] { return FeedForward(options.dim, options.hidden_dim, options.dropout); };
  register_module("experts", experts_);
  for (std::int64_t i = 0; i < options.n_routed_experts; ++i) experts_->push_back(expert());
  gate_ = register_module("gate", MoeGate(options));
  if (options.shared_expert) shared_experts_ = register_module("shared_experts", expert());
}

Tensor MoeFeedForwardImpl::routed(const Tensor& rows, const Routing& routing) {
  const std::int64_t chosen = options_.num_experts_per_tok;
  const Tensor flat = routing.experts.flatten();  // (N k)
  const Tensor order = at::argsort(flat, /*stable=*/true, /*dim=*/0);
  const std::vector<std::int64_t> counts = counts_on_host(flat, options_.n_routed_experts);
  const Tensor grouped = rows.index_select(0, order.div(chosen, "floor"));
  std::vector<Tensor> outputs;
  std::int64_t begin = 0;
  for (std::size_t e = 0; e < counts.size(); ++e) {
    outputs.push_back(experts_[e]->as<FeedForward>()->forward(grouped.narrow(0, begin, counts[e])));
    begin += counts[e];
  }
  const Tensor ungrouped = at::cat(outputs).index_select(0, at::argsort(order));
  const Tensor per_choice = ungrouped.unflatten(0, {-1, chosen}).to(torch::kFloat);  // (N, k, dim)
  return (per_choice * routing.weights.unsqueeze(-1)).sum(1);
}

MoeOutput MoeFeedForwardImpl::forward(const Tensor& x) {
  const ModuleScope scope(*this);
  const Routing routing = gate_(x);
  Tensor y = routed(x.flatten(0, 1), routing).view_as(x);
  if (shared_experts_) y = y + shared_experts_(x);
  const bool kept = is_autocast_on(x.device().type()) && keeps_fp32(gate_->weight);
  return {kept ? y : y.to(x.scalar_type()), routing.aux_loss};
}

}  // namespace halftone
