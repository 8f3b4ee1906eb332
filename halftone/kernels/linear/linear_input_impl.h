// SPDX-License-Identifier: Apache-2.0
// What a linear layer keeps of its input for the gradient of its weights: the rounded rows, or,
// where swiglu() or a norm made the input, nothing but what these keep themselves. To make it again
// is one pass over memory, which is little beside the products.
#pragma once

#include <torch/csrc/autograd/custom_function.h>
#include <torch/types.h>

#include <functional>
#include <optional>
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

/// Of a result of swiglu(), and of the normed result of rms_norm() and add_rms_norm(), where
/// autograd recorded their kernels; nothing for any other tensor.
std::optional<Recomputation> swiglu_recomputation(const torch::Tensor& x);
std::optional<Recomputation> rms_norm_recomputation(const torch::Tensor& x);

/// In the forward() of a linear layer of x: keeps `others` and what gives x again, which is `rows`
/// (x as the product takes it) where no recomputation does. Takes the place of save_for_backward().
void save_linear(torch::autograd::AutogradContext* ctx, torch::autograd::variable_list others,
                 const torch::Tensor& x, const torch::Tensor& rows);

/// In its backward().
class SavedLinear {
 public:
  explicit SavedLinear(torch::autograd::AutogradContext* ctx);

  const torch::autograd::variable_list& others() const { return others_; }
  /// The rows that were kept, or x computed again. d_x: what backward() will return for x, if that
  /// is there already.
  torch::Tensor input(const torch::Tensor& d_x) const {
    return compute_ != nullptr ? (*compute_)(input_, d_x) : input_.front();
  }
  /// The gradient of x from that of its rows.
  torch::Tensor input_grad(const torch::Tensor& d_rows) const;

 private:
  torch::autograd::variable_list others_, input_;
  const Recomputation::Compute* compute_ = nullptr;  // ctx's
  std::vector<std::int64_t> shape_;
  torch::ScalarType dtype_;
};

}  // namespace halftone
