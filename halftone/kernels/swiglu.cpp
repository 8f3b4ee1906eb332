// SPDX-License-Identifier: Apache-2.0
#include "halftone/kernels/swiglu.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/silu.h>
#include <torch/csrc/autograd/custom_function.h>

#include "halftone/core/error.h"
#include "halftone/kernels/composed_grads_impl.h"
#include "halftone/kernels/kernel_type_impl.h"
#include "halftone/kernels/linear_input_impl.h"
#include "halftone/kernels/matrix_rows_impl.h"
#include "halftone/kernels/observed_impl.h"
#include "halftone/kernels/swiglu_impl.h"

namespace halftone {
namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr std::int64_t kGrain = 8;  // rows worth a thread

struct Swiglu : torch::autograd::Function<Swiglu> {
  static Tensor forward(AutogradContext* ctx, const Tensor& gate_up) {
    ObservedOperation observed("halftone::swiglu", {gate_up});
    const Tensor dense = gate_up.contiguous();
    const std::int64_t width = dense.size(-1) / 2;
    const Tensor out = at::empty(with_last(dense, width), dense.options());
    const SwigluRows rows{.gate_up = dense.const_data_ptr(),
                          .out = out.data_ptr(),
                          .width = width,
                          .type = kernel_type(dense.scalar_type())};
    at::parallel_for(0, out.numel() / width, kGrain,
                     [&](std::int64_t begin, std::int64_t end) { swiglu_rows(rows, begin, end); });
    observed.set_output(out);
    ctx->save_for_backward({gate_up});
    return out;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& output_grads) {
    const Tensor gate_up = ctx->get_saved_variables().front();
    if (torch::GradMode::is_enabled())
      return composed_grads(
          [](const variable_list& in) { return variable_list{swiglu_reference(in[0])}; }, {gate_up},
          output_grads);
    ObservedOperation observed("halftone::swiglu_gradient", {output_grads[0], gate_up});
    const Tensor dense = gate_up.contiguous();
    const Tensor d_out = output_grads[0].to(dense.scalar_type()).contiguous();
    const Tensor d_gate_up = at::empty_like(dense);
    const std::int64_t width = d_out.size(-1);
    const SwigluGradRows rows{.gate_up = dense.const_data_ptr(),
                              .d_out = d_out.const_data_ptr(),
                              .d_gate_up = d_gate_up.data_ptr(),
                              .width = width,
                              .type = kernel_type(dense.scalar_type())};
    at::parallel_for(0, d_out.numel() / width, kGrain, [&](std::int64_t begin, std::int64_t end) {
      swiglu_grad_rows(rows, begin, end);
    });
    observed.set_output(d_gate_up);
    return {d_gate_up};
  }
};

}  // namespace

Tensor swiglu_reference(const Tensor& gate_up) {
  const std::vector<Tensor> parts = gate_up.chunk(2, -1);
  return at::silu(parts[0]) * parts[1];
}

std::optional<Recipe> swiglu_recipe(const Tensor& x) {
  const auto* node = dynamic_cast<torch::autograd::CppNode<Swiglu>*>(x.grad_fn().get());
  if (node == nullptr) return {};
  return Recipe{.inputs = node->ctx_.get_saved_variables(),
                .compute = [](const variable_list& in) { return Swiglu::apply(in[0]); }};
}

Tensor swiglu(const Tensor& gate_up) {
  HALFTONE_CHECK(gate_up.dim() >= 1 && gate_up.size(-1) % 2 == 0,
                 "[swiglu] expected (..., 2 h), got ", gate_up.sizes());
  return is_simd_operand(gate_up) && gate_up.numel() > 0 ? Swiglu::apply(gate_up)
                                                         : swiglu_reference(gate_up);
}

}  // namespace halftone
