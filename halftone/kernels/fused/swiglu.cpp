// SPDX-License-Identifier: Apache-2.0
#include "halftone/kernels/fused/swiglu.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/silu.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/custom_class.h>

#include <utility>

#include "halftone/core/error.h"
#include "halftone/kernels/common/fused_kernels.h"
#include "halftone/kernels/common/kernel_type_impl.h"
#include "halftone/kernels/common/matrix_rows_impl.h"
#include "halftone/kernels/common/recomputation_impl.h"
#include "halftone/kernels/common/recorded_op_impl.h"
#include "halftone/kernels/common/reference_grads_impl.h"
#include "halftone/kernels/fused/swiglu_impl.h"

namespace halftone {
namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr std::int64_t kSwigluGrain = 8;  // rows worth a thread
constexpr const char* kSwigluName = "halftone::swiglu";

/// d_gate_up, and the forward's result once more where `out` is defined.
Tensor gradient(const Tensor& gate_up, const Tensor& d_out, const Tensor& out) {
  ObservedOperation observed("halftone::swiglu_gradient", d_out, gate_up);
  const Tensor dense = gate_up.contiguous();
  const Tensor d_rows = d_out.to(dense.scalar_type()).contiguous();
  const Tensor d_gate_up = at::empty_like(dense);
  const std::int64_t width = d_rows.size(-1);
  const SwigluGradRows rows{.gate_up = dense.const_data_ptr(),
                            .d_out = d_rows.const_data_ptr(),
                            .d_gate_up = d_gate_up.data_ptr(),
                            .out = out.defined() ? out.data_ptr() : nullptr,
                            .width = width,
                            .type = kernel_type(dense.scalar_type())};
  at::parallel_for(
      0, d_rows.numel() / width, kSwigluGrain,
      [&](std::int64_t begin, std::int64_t end) { swiglu_grad_rows(rows, begin, end); });
  observed.set_outputs(d_gate_up, out);
  return d_gate_up;
}

/// The gradient that was computed beside the result when a linear layer asked for the latter again,
/// until autograd comes for it.
class EarlyGradient : public torch::CustomClassHolder {
 public:
  void put(const Tensor& d_out, const Tensor& d_gate_up) {
    d_out_ = d_out;
    version_ = d_out._version();
    d_gate_up_ = d_gate_up;
  }

  /// Undefined if it belongs to another gradient of the result: one that a second use of the result
  /// or a hook has changed.
  Tensor take(const Tensor& d_out) {
    const bool fits = d_out_.is_same(d_out) && d_out_._version() == version_;
    d_out_.reset();
    const Tensor d_gate_up = std::exchange(d_gate_up_, {});
    return fits ? d_gate_up : Tensor();
  }

 private:
  Tensor d_out_;
  std::int64_t version_ = 0;
  Tensor d_gate_up_;
};

constexpr const char* kEarly = "early";

c10::intrusive_ptr<EarlyGradient> early_gradient(AutogradContext& ctx) {
  return c10::static_intrusive_pointer_cast<EarlyGradient>(ctx.saved_data[kEarly].toCapsule());
}

struct Swiglu : torch::autograd::Function<Swiglu> {
  static Tensor forward(AutogradContext* ctx, const Tensor& gate_up) {
    const Tensor dense = gate_up.contiguous();
    const std::int64_t width = dense.size(-1) / 2;
    const Tensor out = at::empty(with_last(dense, width), dense.options());
    const SwigluRows rows{.gate_up = dense.const_data_ptr(),
                          .out = out.data_ptr(),
                          .width = width,
                          .type = kernel_type(dense.scalar_type())};
    at::parallel_for(0, out.numel() / width, kSwigluGrain,
                     [&](std::int64_t begin, std::int64_t end) { swiglu_rows(rows, begin, end); });
    ctx->save_for_backward({gate_up});
    ctx->saved_data[kEarly] = c10::IValue::make_capsule(c10::make_intrusive<EarlyGradient>());
    return out;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& output_grads) {
    const Tensor gate_up = ctx->get_saved_variables().front();
    if (torch::GradMode::is_enabled())
      return reference_grads(
          [](const variable_list& in) { return variable_list{swiglu_reference(in[0])}; }, {gate_up},
          output_grads);
    const auto early = early_gradient(*ctx);
    const Tensor known = early->take(output_grads[0]);
    return {known.defined() ? known : gradient(gate_up, output_grads[0], {})};
  }
};

Tensor fused_swiglu(const Tensor& gate_up) {
  ObservedOperation observed(kSwigluName, gate_up);
  const Tensor out = Swiglu::apply(gate_up);
  observed.set_outputs(out);
  return out;
}

std::optional<Recomputation> swiglu_again(torch::autograd::CppNode<Swiglu>& node,
                                          std::uint32_t /*output*/) {
  const variable_list inputs = node.ctx_.get_saved_variables();
  const auto early = early_gradient(node.ctx_);
  const std::uint64_t sequence = node.sequence_nr();
  const auto compute = [early, sequence](const variable_list& in, const Tensor& d_x) {
    if (!d_x.defined() || torch::GradMode::is_enabled()) return fused_swiglu(in[0]);
    const ObservedBackward ahead(kSwigluName, sequence);
    const Tensor again = at::empty(with_last(in[0], in[0].size(-1) / 2), in[0].options());
    early->put(d_x, gradient(in[0], d_x, again));
    return again;
  };
  return Recomputation{.inputs = inputs, .compute = compute};
}

const RegisterRecomputation<Swiglu, swiglu_again> swiglu_registered;

}  // namespace

Tensor swiglu_reference(const Tensor& gate_up) {
  const std::vector<Tensor> parts = gate_up.chunk(2, -1);
  return at::silu(parts[0]) * parts[1];
}

Tensor swiglu(const Tensor& gate_up) {
  HALFTONE_CHECK(gate_up.dim() >= 1 && gate_up.size(-1) % 2 == 0,
                 "[swiglu] expected (..., 2 h), got ", gate_up.sizes());
  const bool fused =
      is_fused(FusedKernel::kSwiglu) && is_simd_operand(gate_up) && gate_up.numel() > 0;
  return fused ? fused_swiglu(gate_up) : swiglu_reference(gate_up);
}

}  // namespace halftone
