// SPDX-License-Identifier: Apache-2.0
#include <torch/csrc/autograd/autograd.h>

#include <utility>

#include "halftone/inspect/parameter_gradients_impl.h"

namespace halftone {

std::vector<torch::Tensor> parameter_gradients(const torch::nn::Module& network,
                                               const torch::Tensor& loss) {
  const std::vector<torch::Tensor> parameters = network.parameters();
  std::vector<torch::Tensor> learning;
  for (const torch::Tensor& parameter : parameters)
    if (parameter.requires_grad()) learning.push_back(parameter);
  std::vector<torch::Tensor> found =
      torch::autograd::grad({loss}, learning, {}, /*retain_graph=*/{}, /*create_graph=*/false,
                            /*allow_unused=*/true);
  std::vector<torch::Tensor> gradients;
  auto next = found.begin();
  for (const torch::Tensor& parameter : parameters)
    gradients.push_back(parameter.requires_grad() ? std::move(*next++) : torch::Tensor());
  return gradients;
}

}  // namespace halftone
