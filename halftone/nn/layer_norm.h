// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/nn/module.h>
#include <torch/nn/pimpl.h>
#include <torch/types.h>

#include <cstdint>

namespace halftone {

/// Layer normalisation (kernels/fused/layer_norm.h): fp32 statistics in every recipe; of an fp32
/// weight an fp32 result. Without `has_affine` neither weight nor bias, as where a condition scales
/// and shifts.
class LayerNormImpl : public torch::nn::Module {
 public:
  explicit LayerNormImpl(std::int64_t dim, double eps = 1e-5, bool has_affine = true);

  torch::Tensor forward(const torch::Tensor& x);  // (..., dim) -> (..., dim)

  torch::Tensor weight;  // (dim), ones; or undefined
  torch::Tensor bias;    // (dim), zeros; or undefined

 private:
  std::int64_t dim_;
  double eps_;
};
TORCH_MODULE(LayerNorm);

/// Group normalisation, the same over the channels of a group and all places.
class GroupNormImpl : public torch::nn::Module {
 public:
  /// Throws UserError for channels that are no multiple of `groups`.
  GroupNormImpl(std::int64_t groups, std::int64_t channels, double eps = 1e-5,
                bool has_affine = true);

  torch::Tensor forward(const torch::Tensor& x);  // (B, channels, ...) -> (B, channels, ...)

  torch::Tensor weight;  // (channels), ones; or undefined
  torch::Tensor bias;    // (channels), zeros; or undefined

 private:
  std::int64_t groups_;
  std::int64_t channels_;
  double eps_;
};
TORCH_MODULE(GroupNorm);

}  // namespace halftone
