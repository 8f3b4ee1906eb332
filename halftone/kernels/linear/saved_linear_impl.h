// SPDX-License-Identifier: Apache-2.0
// What a linear layer keeps for its backward pass. Of its input: nothing, where no weight needs a
// gradient; else the rounded rows, or, where the operation that made the input can compute it again
// (swiglu, a norm), nothing but what that operation keeps itself. To make it again is one pass over
// memory, little beside a matmul.
#pragma once

#include <torch/csrc/autograd/custom_function.h>
#include <torch/custom_class.h>
#include <torch/types.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include "halftone/kernels/common/recomputation_impl.h"
#include "halftone/kernels/gemm/compute_type.h"
#include "halftone/kernels/gemm/matmul_format.h"
#include "halftone/kernels/linear/compute_context.h"

namespace halftone {

/// How a layer computes, beside its tensors.
struct LinearCall {
  ComputeType type = ComputeType::kFloat32;
  torch::ScalarType dtype = torch::kFloat;  // of y
  std::uint64_t stream = 0;                 // of the stochastic rounding of its gradients
  ComputeContext context;
};

/// In the forward() of a linear layer of x: keeps what its backward() needs. Takes the place of
/// save_for_backward(). `input` and `weight` are x and the weights as the matmul took them.
void save_linear(torch::autograd::AutogradContext* ctx, const LinearCall& call,
                 const torch::Tensor& x, const Operand& input, at::TensorList weights,
                 const Operand& weight);

/// In its backward().
class SavedLinear {
 public:
  explicit SavedLinear(torch::autograd::AutogradContext* ctx);

  const LinearCall& call() const;
  const torch::autograd::variable_list& weights() const { return weights_; }
  OperandPtr weight() const;
  /// The rows that were kept, or x computed again; a leaf of zeros where all weights are frozen:
  /// then no gradient depends on x. d_x: what backward() will return for x, if that is there
  /// already.
  torch::Tensor input(const torch::Tensor& d_x) const;
  /// The dtype in which the matmul gives the gradient of the rows: that of its format, or, where it
  /// is computed in fp32, x's own.
  torch::ScalarType input_grad_dtype() const;
  /// The gradient of x from that of its rows.
  torch::Tensor input_grad(const torch::Tensor& d_rows) const;

 private:
  struct Record;
  friend void save_linear(torch::autograd::AutogradContext*, const LinearCall&,
                          const torch::Tensor&, const Operand&, at::TensorList, const Operand&);

  c10::intrusive_ptr<torch::CustomClassHolder> holder_;
  const Record* record_;  // the holder's
  torch::autograd::variable_list weights_, kept_weight_, input_;
};

}  // namespace halftone
