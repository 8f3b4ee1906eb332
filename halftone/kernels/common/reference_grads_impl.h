// SPDX-License-Identifier: Apache-2.0
// How a fused operation is differentiated twice: its first derivative is that of its reference
// definition, recorded by autograd.
#pragma once

#include <torch/csrc/autograd/autograd.h>
#include <torch/types.h>

#include <cstddef>
#include <functional>
#include <vector>

namespace halftone {

using Composition =
    std::function<std::vector<torch::Tensor>(const std::vector<torch::Tensor>& inputs)>;

/// Gradients of `inputs` from those of the outputs that `compose` makes of them; undefined for an
/// input that needs none. Undefined gradients of outputs count as zero.
inline std::vector<torch::Tensor> reference_grads(const Composition& compose,
                                                  const std::vector<torch::Tensor>& inputs,
                                                  const std::vector<torch::Tensor>& output_grads) {
  // Of aliases: one input may have been computed from another, by the very node that asks.
  std::vector<torch::Tensor> aliases, wanted;
  for (const torch::Tensor& input : inputs) {
    const bool needed = input.defined() && input.requires_grad();
    aliases.push_back(needed ? input.view_as(input) : input);
    if (needed) wanted.push_back(aliases.back());
  }
  const std::vector<torch::Tensor> outputs = compose(aliases);
  std::vector<torch::Tensor> reached, grads, all(inputs.size());
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    if (!output_grads[i].defined() || !outputs[i].requires_grad()) continue;
    reached.push_back(outputs[i]);
    grads.push_back(output_grads[i]);
  }
  if (reached.empty() || wanted.empty()) return all;
  const std::vector<torch::Tensor> found =
      torch::autograd::grad(reached, wanted, grads, /*retain_graph=*/true, /*create_graph=*/true,
                            /*allow_unused=*/true);
  auto next = found.begin();
  for (std::size_t i = 0; i < inputs.size(); ++i)
    if (inputs[i].defined() && inputs[i].requires_grad()) all[i] = *next++;
  return all;
}

}  // namespace halftone
