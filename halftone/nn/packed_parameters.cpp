// SPDX-License-Identifier: Apache-2.0
#include "halftone/nn/packed_parameters.h"

#include <cstdint>
#include <utility>
#include <vector>

#include "halftone/system/large_pages.h"

namespace halftone {
namespace {

constexpr std::int64_t kLine = 64;  // each parameter begins with a cache line

std::int64_t room_of(const torch::Tensor& parameter) {
  return (static_cast<std::int64_t>(parameter.nbytes()) + kLine - 1) / kLine * kLine;
}

std::vector<torch::Tensor> on_cpu(const torch::nn::Module& module, bool learning) {
  std::vector<torch::Tensor> found;
  for (const torch::Tensor& parameter : module.parameters())
    if (parameter.is_cpu() && parameter.requires_grad() == learning) found.push_back(parameter);
  return found;
}

void pack(std::vector<torch::Tensor> parameters) {
  const torch::NoGradGuard no_grad;
  std::int64_t total = 0;
  for (const torch::Tensor& parameter : parameters) total += room_of(parameter);
  const torch::Tensor buffer = empty_on_large_pages(total);
  std::int64_t offset = 0;
  for (torch::Tensor& parameter : parameters) {
    const auto bytes = static_cast<std::int64_t>(parameter.nbytes());
    const torch::Tensor place =
        buffer.narrow(0, offset, bytes).view(parameter.scalar_type()).view(parameter.sizes());
    place.copy_(parameter);
    parameter.set_data(place);
    offset += room_of(parameter);
  }
}

}  // namespace

void pack_parameters(torch::nn::Module& module) {
  // Adapters stand between the layers that are multiplied as one.
  std::vector<torch::Tensor> parameters = on_cpu(module, /*learning=*/false);
  const std::vector<torch::Tensor> learning = on_cpu(module, /*learning=*/true);
  parameters.insert(parameters.end(), learning.begin(), learning.end());
  pack(std::move(parameters));
}

void pack_frozen_parameters(torch::nn::Module& module) { pack(on_cpu(module, /*learning=*/false)); }

}  // namespace halftone
