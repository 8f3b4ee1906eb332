// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/nn/module.h>
#include <torch/nn/pimpl.h>
#include <torch/types.h>

#include <cstdint>
#include <memory>
#include <vector>

namespace halftone {

/// What an adapter adds to a linear layer of x: factor * B (A dropout(x)), with A (rank, in) and B
/// (out, rank): LoRA (Hu et al. 2021).
struct AdapterOptions {
  std::int64_t rank = 1;
  double factor = 1.0;
  double dropout = 0.0;  // in training
};

/// y = x W^T, and + b where there is a bias, by the GEMM that suits the dtype and the machine
/// (kernels/linear/linear.h). Initialised as torch::nn::Linear is: uniform in
/// +-1/sqrt(in_features).
class LinearImpl : public torch::nn::Module {
 public:
  LinearImpl(std::int64_t in_features, std::int64_t out_features, bool has_bias = false);

  torch::Tensor forward(const torch::Tensor& x);  // (..., in) -> (..., out)

  /// forward() adds what the adapter does from now on, unless the ComputeContext says
  /// without_adapters. A and B are layers of this class, lora_A and lora_B, which multiply in the
  /// formats that theirs do; A is drawn as weights are, B is zero. REQUIRES no adapter yet.
  void add_adapter(const AdapterOptions& options);
  bool has_adapter() const { return lora_a_ != nullptr; }

  torch::Tensor weight;  // (out, in)
  torch::Tensor bias;    // (out), or undefined

 private:
  friend std::vector<torch::Tensor> input_weights(const std::vector<const LinearImpl*>& layers);
  friend torch::Tensor with_adapters(const torch::Tensor& y, const torch::Tensor& x,
                                     const std::vector<const LinearImpl*>& layers);

  AdapterOptions adapter_;
  std::shared_ptr<LinearImpl> lora_a_;
  std::shared_ptr<LinearImpl> lora_b_;
};
TORCH_MODULE(Linear);

/// The weights that the input of `layers` is multiplied by: theirs, and the A of their adapters.
std::vector<torch::Tensor> input_weights(const std::vector<const LinearImpl*>& layers);

/// y (..., sum of out), the products of x (..., in) with the weights of `layers` side by side, plus
/// what their adapters add, rounded to y's dtype; y itself where none does.
torch::Tensor with_adapters(const torch::Tensor& y, const torch::Tensor& x,
                            const std::vector<const LinearImpl*>& layers);

}  // namespace halftone
