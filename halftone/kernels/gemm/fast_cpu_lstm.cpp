// SPDX-License-Identifier: Apache-2.0
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/mkldnn_rnn_layer_backward_ops.h>
#include <ATen/ops/mkldnn_rnn_layer_ops.h>

#include <tuple>

#include "halftone/kernels/gemm/cpu_gemm_config.h"
#include "halftone/kernels/gemm/replaced_kernel_impl.h"

namespace halftone {
namespace {

using torch::ScalarType;
using torch::Tensor;

/// One choice for both directions: the workspace that the forward pass hands to the backward pass
/// belongs to the dtype that the layer was computed in.
bool upcasts_layer(const Tensor& input) {
  const ScalarType dtype = input.scalar_type();
  return !computes_originally() && is_half(dtype) &&
         cpu_gemm_config().of(dtype).forward == GemmBackend::kUpcast &&
         is_exact_in_fp32(dtype, at::Float32Op::RNN);
}

/// A result in the dtype of `like`; the workspace, which is bytes, stays as it is.
Tensor narrowed(const Tensor& result, ScalarType dtype) {
  return result.defined() && result.scalar_type() == torch::kFloat ? result.to(dtype) : result;
}

/// LibTorch's layer of an LSTM, oneDNN's, which refuses a dtype that the CPU has no instructions
/// for. Autocast brings fp32 modules here.
template <class Op, class Schema = typename Op::schema>
struct Layer;
template <class Op, class Return, class... Rest>
struct Layer<Op, Return(const Tensor&, Rest...)> {
  static Return compute(c10::DispatchKeySet keys, const Tensor& input, Rest... rest) {
    const auto original = [&] { return Original<Op>::call(keys, input, rest...); };
    if (!upcasts_layer(input)) return original();
    const ScalarType dtype = input.scalar_type();
    return computed_or_refused(
        [&] {
          return std::apply(
              [dtype](const auto&... results) { return Return(narrowed(results, dtype)...); },
              Original<Op>::call(keys, upcast(input), upcast(rest)...));
        },
        original);
  }
};

}  // namespace

void replace_lstm(torch::Library& aten) {
  using Forward = at::_ops::mkldnn_rnn_layer;
  using Backward = at::_ops::mkldnn_rnn_layer_backward;
  replace_kernel<Forward, &Layer<Forward>::compute>(aten);
  replace_kernel<Backward, &Layer<Backward>::compute>(aten);
}

}  // namespace halftone
