// SPDX-License-Identifier: Apache-2.0
#include "halftone/train/network_state.h"

#include "halftone/core/error.h"

namespace halftone {

StateDict network_state(const torch::nn::Module& module) {
  StateDict state;
  for (const auto& item : module.named_parameters())
    state.tensors[item.key()] = item.value().detach();
  for (const auto& item : module.named_buffers()) state.tensors[item.key()] = item.value().detach();
  return state;
}

void load_network_state(torch::nn::Module& module, const StateDict& state,
                        const std::string& source) {
  const StateDict own = network_state(module);
  const std::string wrong = tensor_mismatches(own, state);
  if (!wrong.empty())
    throw UserError(source + ": its tensors do not fit the module (" + wrong +
                    "); load it into the module that it was saved from");
  const torch::NoGradGuard no_grad;
  for (const auto& [name, tensor] : own.tensors) tensor.copy_(state.tensor(name));
}

}  // namespace halftone
