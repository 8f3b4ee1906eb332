// SPDX-License-Identifier: Apache-2.0
#include "halftone/nn/stored_weights.h"

#include <fmt/format.h>

#include <string>
#include <vector>

#include "halftone/core/error.h"
#include "halftone/nn/embedding.h"
#include "halftone/nn/linear.h"
#include "halftone/nn/lm_head.h"
#include "halftone/system/large_pages.h"

namespace halftone {
namespace {

constexpr std::int64_t kWeightLine = 64;  // each weight begins with a cache line

struct NamedWeight {
  std::string name;
  torch::Tensor weight;
};

/// In the order of parameters().
std::vector<NamedWeight> matrices_of(torch::nn::Module& module) {
  std::vector<const torch::Tensor*> known;
  for (const auto& layer : module.modules()) {
    if (const auto* linear = layer->as<LinearImpl>()) known.push_back(&linear->weight);
    if (const auto* table = layer->as<EmbeddingImpl>()) known.push_back(&table->weight);
    if (const auto* head = layer->as<LmHeadImpl>()) known.push_back(&head->weight);
  }
  std::vector<NamedWeight> found;
  for (const auto& parameter : module.named_parameters())
    for (const torch::Tensor* weight : known)
      if (weight->is_same(parameter.value())) {
        found.push_back({parameter.key(), parameter.value()});
        break;
      }
  return found;
}

std::int64_t held_room(const torch::Tensor& weight, WeightStorage storage) {
  return (StoredWeights::bytes_of(weight, storage) + kWeightLine - 1) / kWeightLine * kWeightLine;
}

}  // namespace

std::shared_ptr<const StoredWeights> store_weights(torch::nn::Module& module,
                                                   WeightStorage storage) {
  auto stored = std::make_shared<StoredWeights>();
  std::vector<NamedWeight> weights = matrices_of(module);
  HALFTONE_CHECK(!weights.empty(), "[stored_weights] expected a module of halftone::Linear");
  std::int64_t total = 0;
  for (const NamedWeight& one : weights)
    if (one.weight.is_cpu()) total += held_room(one.weight, storage);
  const torch::Tensor buffer = empty_on_large_pages(total);
  std::int64_t offset = 0;
  for (NamedWeight& one : weights) {
    const std::int64_t bytes = StoredWeights::bytes_of(one.weight, storage);
    const bool is_cpu = one.weight.is_cpu();
    const std::int64_t room = held_room(one.weight, storage);
    try {
      stored->store(one.weight, storage,
                    is_cpu ? buffer.narrow(0, offset, bytes) : torch::Tensor());
    } catch (const UserError& error) {
      throw UserError(fmt::format("'{}': {}", one.name, error.what()));
    }
    if (is_cpu) offset += room;
  }
  return stored;
}

std::uint64_t parameter_bytes(const torch::nn::Module& module) {
  std::uint64_t bytes = 0;
  for (const torch::Tensor& parameter : module.parameters()) bytes += parameter.nbytes();
  return bytes;
}

}  // namespace halftone
