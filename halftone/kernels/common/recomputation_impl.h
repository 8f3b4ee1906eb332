// SPDX-License-Identifier: Apache-2.0
// Results that need not be kept: an operation says how they are computed again from what it keeps
// for its own backward pass, and whoever would keep such a result asks here.
#pragma once

#include <torch/csrc/autograd/custom_function.h>
#include <torch/types.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <typeindex>
#include <vector>

namespace halftone {

/// How a tensor x is computed again, to the bit, from what the operation that made it keeps for its
/// own backward pass. Differentiable as the operation is. `d_x` is the gradient that x will have,
/// or undefined: one pass over the inputs may be enough for x and for their gradients.
struct Recomputation {
  using Compute = std::function<torch::Tensor(const std::vector<torch::Tensor>& inputs,
                                              const torch::Tensor& d_x)>;
  std::vector<torch::Tensor> inputs;
  Compute compute;
};

/// Of the operation that made x, where it registered itself and autograd recorded it; nothing for
/// any other tensor, and none where what the operation kept is gone or x was written to.
std::optional<Recomputation> recomputation_of(const torch::Tensor& x);

/// Of output number `output` of the operation whose node of autograd this is, or nothing.
using RecomputationOfNode = std::optional<Recomputation> (*)(torch::autograd::Node& node,
                                                             std::uint32_t output);
void register_recomputation(std::type_index node, RecomputationOfNode find);

/// Registers `find` for the results of the autograd function `Function`. An object of static
/// storage beside the function's definition:
///   const RegisterRecomputation<Swiglu, swiglu_again> registered;
template <class Function,
          std::optional<Recomputation> (*find)(torch::autograd::CppNode<Function>&, std::uint32_t)>
struct RegisterRecomputation {
  using Node = torch::autograd::CppNode<Function>;
  RegisterRecomputation() {
    register_recomputation(typeid(Node), [](torch::autograd::Node& node, std::uint32_t output) {
      return find(static_cast<Node&>(node), output);
    });
  }
};

}  // namespace halftone
