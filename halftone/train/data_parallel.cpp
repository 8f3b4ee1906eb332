// SPDX-License-Identifier: Apache-2.0
#include "halftone/train/data_parallel.h"

#include <utility>

#include "halftone/core/error.h"
#include "halftone/core/random.h"
#include "halftone/optim/fused_optimizer.h"
#include "halftone/optim/loose_gradient_reducer.h"
#include "halftone/train/optimizer_state.h"

namespace halftone {
namespace {

void broadcast(ProcessGroup& group, const torch::Tensor& tensor) {
  if (tensor.numel() == 0) return;
  torch::Tensor same = tensor.detach();
  if (same.is_contiguous()) {
    group.broadcast(same, 0)->wait();
    return;
  }
  const torch::Tensor copy = same.contiguous();
  group.broadcast(copy, 0)->wait();
  same.copy_(copy);
}

}  // namespace

DataParallel::DataParallel(ProcessGroup& group, Optimizers optimizers, torch::nn::Module& network,
                           GradientTransport transport, GradientTree* tree)
    : group_(group), transport_(transport) {
  const torch::NoGradGuard no_grad;
  std::vector<const ParameterArena*> arenas;
  bool sharded = false, sharded_weights = false;
  for (const auto& optimizer : optimizers) {
    const FusedOptimizer* const fused = as_fused(std::as_const(*optimizer));
    if (fused == nullptr) {
      loose_.push_back(optimizer);
      continue;
    }
    if (fused->traits().releases_gradients)
      throw UserError(
          "trainer: release_gradients applies gradients before those of the other processes have "
          "come; choose memory lean, or train in one process");
    sharded = sharded || fused->traits().shards_gradients;
    sharded_weights = sharded_weights || fused->traits().shards_weights;
    arenas.push_back(&fused->arena());
  }
  for (const torch::Tensor& parameter : network.parameters()) broadcast(group_, parameter);
  for (const torch::Tensor& buffer : network.buffers()) broadcast(group_, buffer);
  if (sharded_weights) weights_ = std::make_shared<ShardedWeights>(arenas, group_);
  if (!arenas.empty()) reducer_.emplace(std::move(arenas), group_, transport_, tree);
  if (sharded) reducer_->keep_own_pieces();
}

void DataParallel::complete_weights() {
  if (weights_) weights_->complete();
  weights_.reset();
}

void DataParallel::begin_backward() {
  if (reducer_) reducer_->begin();
}

void DataParallel::finish_backward() {
  if (reducer_) reducer_->finish();
  for (const auto& optimizer : loose_)
    reduce_gradients(parameters_of(*optimizer), group_, transport_);
}

StepShare DataParallel::all_of(const StepShare& own) const {
  const auto all =
      all_gather_numbers(group_, {own.loss, static_cast<double>(own.tokens), own.seconds});
  StepShare sum{.seconds = all.front()[2]};
  for (const std::vector<double>& one : all) {
    sum.loss += one[0];
    sum.tokens += static_cast<std::int64_t>(one[1]);
  }
  return sum;
}

void DataParallel::share_generators(torch::Device device) const {
  StateDict states = rng_state(device);
  for (auto& [name, state] : states.tensors) {
    state = state.contiguous();
    group_.broadcast(state, 0)->wait();
  }
  set_rng_state(device, states);
}

}  // namespace halftone
