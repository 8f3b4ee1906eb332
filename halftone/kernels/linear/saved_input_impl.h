// SPDX-License-Identifier: Apache-2.0
// What a linear layer keeps of its input for the gradient of its weights: the rounded rows, or,
// where the operation that made the input can compute it again (swiglu, a norm), nothing but what
// that operation keeps itself. To make it again is one pass over memory, little beside a matmul.
#pragma once

#include <torch/csrc/autograd/custom_function.h>
#include <torch/types.h>

#include <cstdint>
#include <vector>

#include "halftone/kernels/common/recomputation_impl.h"

namespace halftone {

/// In the forward() of a linear layer of x: keeps `others` and what gives x again, which is `rows`
/// (x as the matmul takes it) where no recomputation does. Takes the place of save_for_backward().
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
