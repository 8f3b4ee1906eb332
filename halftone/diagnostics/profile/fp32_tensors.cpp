// SPDX-License-Identifier: Apache-2.0
#include <torch/optim/adam.h>
#include <torch/optim/adamw.h>
#include <torch/optim/sgd.h>

#include <algorithm>
#include <map>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>

#include "halftone/diagnostics/profile/fp32_tensors_impl.h"
#include "halftone/inspect/recorder_impl.h"
#include "halftone/optim/fused_optimizer.h"

namespace halftone {
namespace {

/// The states that LibTorch's optimizers keep for a parameter.
std::vector<torch::Tensor> states_of(torch::optim::OptimizerParamState& state) {
  if (const auto* adam = dynamic_cast<torch::optim::AdamParamState*>(&state))
    return {adam->exp_avg(), adam->exp_avg_sq(), adam->max_exp_avg_sq()};
  if (const auto* adamw = dynamic_cast<torch::optim::AdamWParamState*>(&state))
    return {adamw->exp_avg(), adamw->exp_avg_sq(), adamw->max_exp_avg_sq()};
  if (const auto* sgd = dynamic_cast<torch::optim::SGDParamState*>(&state))
    return {sgd->momentum_buffer()};
  return {};
}

class Fp32Ledger {
 public:
  explicit Fp32Ledger(const MixedPrecision& precision) : precision_(precision) {}

  void add(MemoryKind kind, const std::string& module, const torch::Tensor& tensor) {
    if (tensor.defined() && tensor.scalar_type() == torch::kFloat)
      add(kind, module, "", static_cast<double>(tensor.nbytes()));
  }
  void add(MemoryKind kind, const std::string& module, const std::string& operation, double bytes) {
    if (bytes > 0) bytes_[{kind, module, operation}] += bytes;
  }

  std::vector<Fp32Tensors> sorted() const {
    std::vector<Fp32Tensors> all;
    for (const auto& [key, bytes] : bytes_) {
      const auto& [kind, module, operation] = key;
      all.push_back({kind, module, operation, bytes, remedy_for(kind)});
    }
    std::stable_sort(all.begin(), all.end(),
                     [](const Fp32Tensors& a, const Fp32Tensors& b) { return a.bytes > b.bytes; });
    return all;
  }

 private:
  std::string remedy_for(MemoryKind kind) const {
    const MemoryPolicy& memory = precision_.memory();
    switch (kind) {
      case MemoryKind::kWeights:
        return memory.bf16_weights ? "small or kept in fp32 by keep_fp32"
                                   : "--master-weights split16, or --memory lean: bf16 weights";
      case MemoryKind::kGradients:
        return memory.bf16_weights ? "--gradients bf16, or --memory leanest: released"
                                   : "--memory lean: bf16 gradients; leanest: released";
      case MemoryKind::kOptimizer:
        return "--moments bf16 or int8, or --memory lean";
      case MemoryKind::kActivations:
        return memory.recompute_blocks ? "a smaller --batch-size with more --accumulate"
                                       : "--recompute blocks, or --memory lean";
    }
    return "";
  }

  const MixedPrecision& precision_;
  std::map<std::tuple<MemoryKind, std::string, std::string>, double> bytes_;
};

}  // namespace

std::string_view to_string(MemoryKind kind) {
  switch (kind) {
    case MemoryKind::kWeights:
      return "weights";
    case MemoryKind::kGradients:
      return "gradients";
    case MemoryKind::kOptimizer:
      return "optimizer states";
    case MemoryKind::kActivations:
      return "activations";
  }
  return "";
}

std::vector<Fp32Tensors> fp32_tensors(const torch::nn::Module& network,
                                      const Optimizers& optimizers, const MixedPrecision& precision,
                                      const std::vector<LiveTensor>& activations) {
  Fp32Ledger ledger(precision);
  for (const auto& item : network.named_parameters()) {
    ledger.add(MemoryKind::kWeights, owner_of(item.key()), item.value());
    ledger.add(MemoryKind::kGradients, owner_of(item.key()), item.value().grad());
  }
  for (const auto& optimizer : optimizers) {
    if (const FusedOptimizer* const ours = as_fused(std::as_const(*optimizer))) {
      // Small parameters have fp32 moments in any case: they are nothing beside the others.
      if (ours->traits().moments == MomentStorage::kFloat32)
        ledger.add(MemoryKind::kOptimizer, "", "", static_cast<double>(ours->bytes().moments));
      continue;
    }
    for (const auto& [parameter, state] : optimizer->state())
      for (const torch::Tensor& tensor : states_of(*state))
        ledger.add(MemoryKind::kOptimizer, "", tensor);
  }
  for (const LiveTensor& tensor : activations)
    if (tensor.dtype == torch::kFloat)
      ledger.add(MemoryKind::kActivations, tensor.module, tensor.operation, tensor.bytes);
  return ledger.sorted();
}

}  // namespace halftone
