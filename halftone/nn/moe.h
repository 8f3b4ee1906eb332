// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/nn/module.h>
#include <torch/nn/modules/container/modulelist.h>
#include <torch/nn/pimpl.h>
#include <torch/types.h>

#include <cstdint>

#include "halftone/nn/feed_forward.h"

namespace halftone {

/// Over what the auxiliary loss compares the choices with the scores: each sequence alone, or all
/// tokens of the batch.
enum class LoadBalance { kSequences, kTokens };

struct MoeOptions {
  std::int64_t dim = 0;
  std::int64_t hidden_dim = 0;
  std::int64_t n_routed_experts = 4;
  std::int64_t num_experts_per_tok = 2;
  bool shared_expert = true;
  /// Whether the only expert of a token (k = 1) gets the weight 1; else it gets its score.
  bool normalises_single_expert = false;
  LoadBalance balance = LoadBalance::kSequences;
  double aux_loss_alpha = 0.1;
  double dropout = 0.0;
};

/// A token's experts and the router's load-balance term.
struct Routing {
  torch::Tensor weights;   // (N, k) fp32; each row sums to 1 where k > 1 or one is normalised
  torch::Tensor experts;   // (N, k) int64
  torch::Tensor aux_loss;  // scalar fp32, 0 outside training
};

/// Softmax over experts in fp32 whatever autocast says. The auxiliary loss of a sequence is
/// alpha sum_e (share of its choices that fell on e, times E) (mean score of e); its mean over the
/// batch counts. That of all tokens is alpha E sum_e (choices of e per token) (mean score of e):
/// with k choices a token it is k times as large.
class MoeGateImpl : public torch::nn::Module {
 public:
  explicit MoeGateImpl(const MoeOptions& options);

  Routing forward(const torch::Tensor& x);  // (B, T, dim), N = B T

  torch::Tensor weight;  // (E, dim)

 private:
  torch::Tensor imbalance(const torch::Tensor& scores, const torch::Tensor& chosen) const;

  MoeOptions options_;
};
TORCH_MODULE(MoeGate);

struct MoeOutput {
  torch::Tensor y;         // (B, T, dim)
  torch::Tensor aux_loss;  // scalar fp32
};

/// A mixture of SwiGLU experts: each token's k likeliest, weighted, plus the shared one. Tokens are
/// grouped by expert, so an idle expert costs nothing; its gradient is zero, not absent. Outputs
/// are summed in fp32, and stay so under autocast where the gate's weight is marked by
/// mark_keep_fp32().
class MoeFeedForwardImpl : public torch::nn::Module {
 public:
  explicit MoeFeedForwardImpl(const MoeOptions& options);

  MoeOutput forward(const torch::Tensor& x);  // (B, T, dim)

 private:
  torch::Tensor routed(const torch::Tensor& rows, const Routing& routing);

  MoeOptions options_;
  torch::nn::ModuleList experts_;
  MoeGate gate_{nullptr};
  FeedForward shared_experts_{nullptr};
};
TORCH_MODULE(MoeFeedForward);

}  // namespace halftone
