// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/nn/module.h>
#include <torch/types.h>

#include <vector>

namespace halftone {

/// Whatever happens to the values, dtype and device of a network's parameters and buffers in this
/// scope: behind it they are as they were, in the memory where they were.
class NetworkGuard {
 public:
  explicit NetworkGuard(torch::nn::Module& network);
  ~NetworkGuard();
  NetworkGuard(const NetworkGuard&) = delete;
  NetworkGuard& operator=(const NetworkGuard&) = delete;

 private:
  struct Saved {
    torch::Tensor tensor;  // of the network
    torch::Tensor memory;  // that it had
    torch::Tensor values;  // a copy
  };
  std::vector<Saved> saved_;
};

}  // namespace halftone
