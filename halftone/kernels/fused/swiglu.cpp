// SPDX-License-Identifier: Apache-2.0
#include "halftone/kernels/fused/swiglu.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/silu.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/custom_class.h>

#include <tuple>
#include <utility>

#include "halftone/core/error.h"
#include "halftone/kernels/common/fused_kernels.h"
#include "halftone/kernels/common/kernel_type_impl.h"
#include "halftone/kernels/common/matrix_rows_impl.h"
#include "halftone/kernels/common/observed_backward_impl.h"
#include "halftone/kernels/common/operator_impl.h"
#include "halftone/kernels/common/recomputation_impl.h"
#include "halftone/kernels/common/reference_grads_impl.h"
#include "halftone/kernels/fused/swiglu_impl.h"

namespace halftone {
namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr std::int64_t kSwigluGrain = 8;  // rows worth a thread

void check_swiglu(const Tensor& gate_up) {
  HALFTONE_CHECK(gate_up.dim() >= 1 && gate_up.size(-1) % 2 == 0,
                 "[swiglu] expected (..., 2 h), got ", gate_up.sizes());
}

bool takes_swiglu(const Tensor& gate_up) {
  check_swiglu(gate_up);
  return is_fused(FusedKernel::kSwiglu) && is_simd_operand(gate_up) && gate_up.numel() > 0;
}

Tensor swiglu_by_definition(const Tensor& gate_up) {
  check_swiglu(gate_up);
  return swiglu_reference(gate_up);
}

Tensor swiglu_buffer(const Tensor& gate_up) {
  return at::empty(with_last(gate_up, gate_up.size(-1) / 2), gate_up.options());
}

Tensor swiglu_all_rows(const Tensor& gate_up) {
  const Tensor dense = gate_up.contiguous();
  const Tensor out = swiglu_buffer(dense);
  const SwigluRows rows{.gate_up = dense.const_data_ptr(),
                        .out = out.data_ptr(),
                        .width = out.size(-1),
                        .type = kernel_type(dense.scalar_type())};
  at::parallel_for(0, out.numel() / rows.width, kSwigluGrain,
                   [&](std::int64_t begin, std::int64_t end) { swiglu_rows(rows, begin, end); });
  return out;
}

/// d_gate_up, and the forward's result once more if `again`.
using SwigluGradient = std::tuple<Tensor, Tensor>;

SwigluGradient swiglu_gradient_buffers(const Tensor& d_out, const Tensor& gate_up, bool again) {
  check_swiglu(gate_up);
  HALFTONE_CHECK(gate_up.numel() > 0 && d_out.sizes() == with_last(gate_up, gate_up.size(-1) / 2),
                 "[swiglu] expected the gradient (..., h) of a result of (..., 2 h), got ",
                 d_out.sizes(), " and ", gate_up.sizes());
  return {at::empty(gate_up.sizes(), gate_up.options()), again ? swiglu_buffer(gate_up) : Tensor()};
}

SwigluGradient swiglu_gradient_rows(const Tensor& d_out, const Tensor& gate_up, bool again) {
  const Tensor dense = gate_up.contiguous();
  const Tensor d_rows = d_out.to(dense.scalar_type()).contiguous();
  const SwigluGradient made = swiglu_gradient_buffers(d_rows, dense, again);
  const auto& [d_gate_up, out] = made;
  const SwigluGradRows rows{.gate_up = dense.const_data_ptr(),
                            .d_out = d_rows.const_data_ptr(),
                            .d_gate_up = d_gate_up.data_ptr(),
                            .out = again ? out.data_ptr() : nullptr,
                            .width = d_rows.size(-1),
                            .type = kernel_type(dense.scalar_type())};
  at::parallel_for(
      0, d_rows.numel() / rows.width, kSwigluGrain,
      [&](std::int64_t begin, std::int64_t end) { swiglu_grad_rows(rows, begin, end); });
  return made;
}

const Operator<SwigluGradient(const Tensor&, const Tensor&, bool)> swiglu_gradient(
    "swiglu_gradient(Tensor d_out, Tensor gate_up, bool again) -> (Tensor, Tensor)",
    {.cpu = swiglu_gradient_rows, .meta = swiglu_gradient_buffers});

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

extern const Operator<Tensor(const Tensor&)> swiglu_operator;

struct Swiglu : torch::autograd::Function<Swiglu> {
  static Tensor forward(AutogradContext* ctx, const Tensor& gate_up) {
    ctx->save_for_backward({gate_up});
    ctx->saved_data[kEarly] = c10::IValue::make_capsule(c10::make_intrusive<EarlyGradient>());
    return swiglu_operator.below_autograd(gate_up, gate_up);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& output_grads) {
    const Tensor gate_up = ctx->get_saved_variables().front();
    if (torch::GradMode::is_enabled())
      return reference_grads(
          [](const variable_list& in) { return variable_list{swiglu_reference(in[0])}; }, {gate_up},
          output_grads);
    const Tensor known = early_gradient(*ctx)->take(output_grads[0]);
    return {known.defined()
                ? known
                : std::get<0>(swiglu_gradient(output_grads[0], gate_up, /*again=*/false))};
  }
};

Tensor recorded_swiglu(const Tensor& gate_up) { return Swiglu::apply(gate_up); }

template <Tensor (*kernel)(const Tensor&)>
Tensor swiglu_by(const Tensor& gate_up) {
  return takes_swiglu(gate_up) ? kernel(gate_up) : swiglu_reference(gate_up);
}

const Operator<Tensor(const Tensor&)> swiglu_operator("swiglu(Tensor gate_up) -> Tensor",
                                                      {.reference = swiglu_by_definition,
                                                       .autograd = swiglu_by<recorded_swiglu>,
                                                       .cpu = swiglu_by<swiglu_all_rows>,
                                                       .meta = swiglu_by<swiglu_buffer>});

std::optional<Recomputation> swiglu_again(torch::autograd::CppNode<Swiglu>& node,
                                          std::uint32_t /*output*/) {
  const variable_list inputs = node.ctx_.get_saved_variables();
  const auto early = early_gradient(node.ctx_);
  const std::uint64_t sequence = node.sequence_nr();
  const auto compute = [early, sequence](const variable_list& in, const Tensor& d_x) {
    if (!d_x.defined() || torch::GradMode::is_enabled()) return swiglu(in[0]);
    const ObservedBackward ahead("halftone::swiglu", sequence);
    const auto [d_gate_up, again] = swiglu_gradient(d_x, in[0], /*again=*/true);
    early->put(d_x, d_gate_up);
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

Tensor swiglu(const Tensor& gate_up) { return swiglu_operator(gate_up); }

}  // namespace halftone
