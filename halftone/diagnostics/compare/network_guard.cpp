// SPDX-License-Identifier: Apache-2.0
#include "halftone/diagnostics/compare/network_guard_impl.h"

namespace halftone {

NetworkGuard::NetworkGuard(torch::nn::Module& network) {
  const auto save = [this](const torch::Tensor& tensor) {
    if (tensor.defined())
      saved_.push_back({tensor, tensor.variable_data(), tensor.detach().clone()});
  };
  for (const torch::Tensor& parameter : network.parameters()) save(parameter);
  for (const torch::Tensor& buffer : network.buffers()) save(buffer);
}

NetworkGuard::~NetworkGuard() {
  const torch::NoGradGuard no_grad;
  for (Saved& saved : saved_) {
    saved.tensor.set_data(saved.memory);
    saved.tensor.variable_data().copy_(saved.values);
  }
}

}  // namespace halftone
