// SPDX-License-Identifier: Apache-2.0
#include "halftone/nn/linear.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/dropout.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>

#include "halftone/core/error.h"
#include "halftone/core/module_scope.h"
#include "halftone/kernels/common/matrix_rows_impl.h"
#include "halftone/kernels/linear/compute_context.h"
#include "halftone/kernels/linear/linear.h"
#include "halftone/nn/new_parameter.h"

namespace halftone {
namespace {

using torch::Tensor;

/// x A^T for each A of `weights`.
std::vector<Tensor> inner_products(const Tensor& x, const std::vector<Tensor>& weights,
                                   double dropout) {
  std::vector<Tensor> products;
  if (dropout > 0.0) {  // each layer drops others, as where it stands alone
    for (const Tensor& weight : weights)
      products.push_back(halftone::linear(at::dropout(x, dropout, /*train=*/true), weight));
    return products;
  }
  std::vector<std::int64_t> ranks;
  for (const Tensor& weight : weights) ranks.push_back(weight.size(0));
  return merged_linear(x, weights).split_with_sizes(ranks, -1);
}

}  // namespace

LinearImpl::LinearImpl(std::int64_t in_features, std::int64_t out_features, bool has_bias) {
  const double bound = 1.0 / std::sqrt(static_cast<double>(in_features));
  weight = register_parameter("weight",
                              new_parameter({out_features, in_features}).uniform_(-bound, bound));
  if (has_bias)
    bias = register_parameter("bias", new_parameter({out_features}).uniform_(-bound, bound));
}

void LinearImpl::add_adapter(const AdapterOptions& options) {
  HALFTONE_CHECK(!has_adapter(), "[linear] expected a layer without an adapter, got one with it");
  adapter_ = options;
  lora_a_ = register_module("lora_A", std::make_shared<LinearImpl>(weight.size(1), options.rank));
  lora_b_ = register_module("lora_B", std::make_shared<LinearImpl>(options.rank, weight.size(0)));
  const torch::NoGradGuard no_grad;
  lora_b_->weight.zero_();
}

Tensor LinearImpl::forward(const Tensor& x) {
  const ModuleScope scope(*this);
  // at::linear would be found by its arguments too.
  const Tensor y = with_adapters(halftone::linear(x, weight), x, {this});
  return bias.defined() ? y + bias.to(y.scalar_type()) : y;
}

std::vector<Tensor> input_weights(const std::vector<const LinearImpl*>& layers) {
  std::vector<Tensor> weights;
  for (const LinearImpl* const layer : layers) {
    weights.push_back(layer->weight);
    if (layer->has_adapter()) weights.push_back(layer->lora_a_->weight);
  }
  return weights;
}

Tensor with_adapters(const Tensor& y, const Tensor& x,
                     const std::vector<const LinearImpl*>& layers) {
  std::vector<Tensor> weights;
  double dropout = 0.0;
  for (const LinearImpl* const layer : layers) {
    if (!layer->has_adapter()) continue;
    weights.push_back(layer->lora_a_->weight);
    if (layer->is_training()) dropout = std::max(dropout, layer->adapter_.dropout);
  }
  if (weights.empty() || compute_context().without_adapters) return y;
  const std::vector<Tensor> inner = inner_products(x, weights, dropout);
  auto next = inner.begin();
  std::vector<Tensor> added;
  for (const LinearImpl* const layer : layers) {
    if (layer->has_adapter())
      added.push_back(halftone::linear(*next++ * layer->adapter_.factor, layer->lora_b_->weight)
                          .to(y.scalar_type()));
    else  // no memory: one zero, seen everywhere
      added.push_back(at::zeros({}, y.options()).expand(with_last(y, layer->weight.size(0))));
  }
  return y + (added.size() == 1 ? added.front() : at::cat(added, -1));
}

}  // namespace halftone
